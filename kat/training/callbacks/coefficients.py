"""Record the coefficients of all rationals over a run."""

from __future__ import annotations

import math
from typing import Any

import torch

from kat.nn import LayerHistory, rationals, write_coefficient_history
from kat.nn.sharded import full_tensor
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import COEFFICIENTS

SNAPSHOTS = 100
"""Steps of a run at which the coefficients are recorded, at most."""
RECORDED_NUMBERS = 1_000_000
"""Coefficients in the record of a run, at most: a file of about 12 MB."""


class CoefficientRecorder(Callback):
    """Keeps the coefficients of all rationals in coefficients.csv.

    Recorded are the raw weights, not their EMA: at the start, evenly over the run
    (:func:`snapshot_interval`), and at the end. The record is part of the checkpoints, so that a
    resumed run writes the file of one that was never stopped. A model without rationals has none.
    """

    name = "coefficients"

    def __init__(self) -> None:
        self.history: dict[str, LayerHistory] = {}
        self.interval = 1

    def state_dict(self) -> dict[str, Any]:
        """Return the record so far."""
        return {name: vars(layer) for name, layer in self.history.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.history = {name: LayerHistory(**layer) for name, layer in state.items()}

    def on_fit_start(self, run: Run) -> None:
        """Choose the steps that are recorded."""
        numbers = 0
        for layer in rationals(run.model).values():
            numbers += sum(parameter.numel() for parameter in layer.parameters())
        self.interval = snapshot_interval(run.schedule.steps, numbers)

    def on_batch_start(self, run: Run, index: int) -> None:
        """Record the coefficients before a step that is due."""
        if run.state.step % self.interval == 0:
            self._record(run)

    def on_epoch_end(self, run: Run) -> None:
        """Write the record so far, before the checkpoint that holds it; with the run's end."""
        if run.state.step >= run.schedule.steps:
            self._record(run)
        self._write(run)

    def on_fit_end(self, run: Run) -> None:
        """Record the end of a run that a limit has stopped."""
        self._record(run)
        self._write(run)

    def on_exception(self, run: Run) -> None:
        """Write the record of a run that is stopped."""
        self._write(run)

    def _record(self, run: Run) -> None:
        """Add the step, unless it is there: several batches may make one."""
        step = run.state.step
        if any(layer.steps[-1] == step for layer in self.history.values()):
            return
        for name, layer in rationals(run.model).items():
            parts = (layer.weight_numerator, layer.weight_denominator)
            a, b = (full_tensor(part.detach()).cpu().float().clone()[None] for part in parts)
            now = LayerHistory(layer.form, torch.tensor([step]), a, b)
            before = self.history.get(name)
            self.history[name] = now if before is None else before.followed_by(now)

    def _write(self, run: Run) -> None:
        if self.history and run.is_first:
            write_coefficient_history(self.history, run.out / COEFFICIENTS)


def snapshot_interval(steps: int, numbers: int) -> int:
    """Return the steps from one record of the coefficients to the next.

    With the end there are at most :data:`SNAPSHOTS` records, and fewer where more than
    :data:`RECORDED_NUMBERS` would be recorded; start and end always are.

    Args:
        steps: steps of the run.
        numbers: coefficients of the model.
    """
    snapshots = min(SNAPSHOTS, RECORDED_NUMBERS // max(numbers, 1))
    return max(1, math.ceil(steps / max(snapshots - 1, 1)))
