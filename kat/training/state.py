"""The progress of a run and its results so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from kat.ops.cpu.library import find_library


@dataclass(frozen=True)
class Division:
    """How the images of an epoch are cut into steps.

    Args:
        processes: that share the data.
        batch_size: images in a batch of each.
        accumulate: batches a step.
    """

    processes: int
    batch_size: int
    accumulate: int

    def __str__(self) -> str:
        return f"{self.processes} processes with batches of {self.batch_size} x {self.accumulate}"


UNKNOWN = 2**62
"""The batches of an epoch of a stream whose length is not known."""


@dataclass
class TrainState:
    """Everything of a run that its weights and its optimizer do not hold; saved as it is.

    Args:
        division: how the images of an epoch are cut into steps.
        arithmetic: of :func:`rounding_factors`, at the start of the run.
        epoch: epochs that are over.
        batch: batches of the current epoch, of each process, whose steps are taken.
        step: optimizer steps in all.
        validating: whether all batches of the epoch are trained on, and it is to be validated.
        best: the row of the best checkpoint, as in ``history``.
        holds_best: whether the checkpoint with this state is to become the best one.
        history: one row an epoch, as history.csv has them.
        skipped: the files that were left out, and why.
        seconds: spent on training and validation.
    """

    division: Division
    arithmetic: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    step: int = 0
    validating: bool = False
    best: dict[str, float] = field(default_factory=dict)
    holds_best: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainState:
        """Undoes :meth:`to_dict`."""
        return cls(**{**state, "division": Division(**state["division"])})

    def mark_best(self, metric: str) -> None:
        """Takes the newest epoch as the best if no other has a higher :func:`order_of`.

        An epoch that a limit cuts short counts only where there is no other.
        """
        row, whole = self.history[-1], self.batch == 0
        self.holds_best = not self.best or (
            whole and order_of(row, metric) > order_of(self.best, metric)
        )
        if self.holds_best:
            self.best = dict(row)

    @property
    def epochs_since_best(self) -> int:
        """Epochs that are over since the best one."""
        return self.epoch - int(self.best.get("epoch", self.epoch))

    def divided(self, division: Division, batches: int) -> TrainState:
        """The state with another division of the epoch.

        The epoch resumes at the step that contains the first unseen image, so that a few images may
        be seen twice, and the schedule at the step of the same place in the new epochs.

        Args:
            division: the new one.
            batches: in an epoch of each process; :data:`UNKNOWN` if there is no telling.
        """
        last = math.ceil(batches / division.accumulate)
        images = self.batch * self.division.processes * self.division.batch_size
        size = division.processes * division.batch_size * division.accumulate
        taken = min(images // size, last)
        validating = self.validating or (self.batch > 0 and taken == last)
        fits = self.batch == batches if validating else self.batch < batches
        step = self.epoch * last + (last if validating else taken)
        if division == self.division and fits and (step == self.step or batches >= UNKNOWN):
            return self
        return dataclasses.replace(
            self,
            division=division,
            batch=batches if validating else taken * division.accumulate,
            step=step,
            validating=validating,
        )


def order_of(row: Mapping[str, float], metric: str) -> tuple[float, float]:
    """The order of epochs: by a metric; of equal ones, by the lower validation loss.

    On a small validation split many epochs have the same metric. NaN, such as the AP where nothing
    counts, is the lowest.

    Args:
        row: of the history.
        metric: its column; higher is better.
    """
    value, loss = row[metric], row.get("val_loss", 0.0)
    return (
        -math.inf if math.isnan(value) else value,
        -math.inf if math.isnan(loss) else -loss,
    )


def rounding_factors(device: torch.device) -> dict[str, str]:
    """What the rounding of a run depends on beside its settings, by name."""
    found = {"PyTorch": str(torch.__version__)}
    if device.type == "cuda":
        return found | {"GPU": torch.cuda.get_device_name(device)}
    kernel = find_library()
    return found | {
        "threads": str(torch.get_num_threads()),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "CPU kernel": "off" if isinstance(kernel, str) else kernel.name,
    }


def rounding_changes(before: dict[str, str], now: dict[str, str]) -> str:
    """What of :func:`rounding_factors` has changed, e.g. ``threads 2 (1 at the start)``."""
    return ", ".join(
        f"{name} {now[name]} ({value} at the start)"
        for name, value in before.items()
        if now.get(name, value) != value
    )
