"""What records the layers of a model while it trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from kat.models import LayerHistory, write_coefficient_history
from kat.nn import GroupRational
from kat.training.ema import whole
from kat.training.run_directory import COEFFICIENTS, STABILITY

SNAPSHOTS = 100
"""Steps of a run at which the coefficients are recorded, at most."""
RECORDED_NUMBERS = 1_000_000
"""Coefficients in the record of a run, at most: a file of about 12 MB."""


class Monitor(Protocol):
    """What records the layers of a model in training; see ``kat.analysis.StabilityMonitor``."""

    @property
    def watching(self) -> bool: ...
    def attach(self, model: nn.Module) -> None: ...
    def due(self, step: int) -> bool: ...
    def watch(self) -> None: ...
    def stop(self) -> None: ...
    def record(self, step: int, loss_scale: float = 1.0) -> list[dict[str, Any]]: ...
    def save(self, path: Path) -> None: ...
    def resume(self, path: Path, step: int) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class RecordStability(Callback):
    """Has a monitor watch the steps that are due, and the last one; stability.csv, TensorBoard.

    The first process records, of its own share of the batch and of the gradients of all.

    Args:
        monitor: is attached to the model when training starts.
        out: the run's folder.
    """

    def __init__(self, monitor: Monitor, out: Path) -> None:
        self.monitor = monitor
        self.path = out / STABILITY
        self.state: dict[str, Tensor] = {}
        self.started = False

    def state_dict(self) -> dict[str, Any]:
        """The coefficients that drift is measured from, for a resumed run."""
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps them until the monitor is attached."""
        self.state = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Attaches the monitor; a resumed run goes on with its record."""
        self.monitor.attach(pl_module.model)
        self.monitor.load_state_dict(self.state)
        if trainer.global_step > 0:
            self.monitor.resume(self.path, trainer.global_step)
        self.started = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Has the monitor watch a step that is due."""
        step = trainer.global_step
        due = self.monitor.due(step) or step + 1 == trainer.estimated_stepping_batches
        if due and trainer.is_global_zero and not self.monitor.watching:
            self.monitor.watch()

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        """Records the step, now that its gradients are there."""
        if not self.monitor.watching:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        step = trainer.global_step
        rows = self.monitor.record(step, scale)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                log_stability(logger, rows, step)

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        """Writes the record so far, with which a run resumed from the checkpoint goes on."""
        self._save(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Writes the record of a run that is stopped; one that never started leaves it alone."""
        self.monitor.stop()
        if self.started:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            self.monitor.save(self.path)


class RecordCoefficients(Callback):
    """Keeps the coefficients of all rationals: coefficients.csv.

    They are those of the weights that are trained, not of their average: at the start, evenly over
    the run (:func:`snapshot_interval`), and at the end. The record is part of the checkpoints, so
    that a resumed run writes the file of one that was never stopped. A model without rationals has
    none.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / COEFFICIENTS
        self.history: dict[str, LayerHistory] = {}
        self.interval = 1

    def state_dict(self) -> dict[str, Any]:
        """The record so far."""
        return {name: vars(layer) for name, layer in self.history.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with it."""
        self.history = {name: LayerHistory(**layer) for name, layer in state_dict.items()}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Chooses the steps that are recorded."""
        numbers = sum(
            parameter.numel()
            for layer in _rationals(pl_module).values()
            for parameter in layer.parameters()
        )
        self.interval = snapshot_interval(int(trainer.estimated_stepping_batches), numbers)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Records what a step that is due begins with."""
        if trainer.global_step % self.interval == 0:
            self._record(trainer.global_step, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the record so far, before the checkpoint that holds it; with the run's end."""
        if trainer.global_step >= trainer.estimated_stepping_batches:
            self._record(trainer.global_step, pl_module)
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records where a limit has stopped the run."""
        self._record(trainer.global_step, pl_module)
        self._write(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Writes the record of a run that is stopped."""
        self._write(trainer)

    def _record(self, step: int, pl_module: Any) -> None:
        """Adds the step, unless it is there: several batches may make one."""
        if any(layer.steps[-1] == step for layer in self.history.values()):
            return
        for name, layer in _rationals(pl_module).items():
            now = _snapshot(layer, step)
            before = self.history.get(name)
            self.history[name] = now if before is None else before.followed_by(now)

    def _write(self, trainer: Trainer) -> None:
        if self.history and trainer.is_global_zero:
            write_coefficient_history(self.history, self.path)


def snapshot_interval(steps: int, numbers: int) -> int:
    """Steps from one record of the coefficients to the next, in a run of so many steps.

    With the end there are at most :data:`SNAPSHOTS` records, and so many fewer that no more than
    :data:`RECORDED_NUMBERS` are recorded; start and end always are.

    Args:
        steps: of the run.
        numbers: coefficients that the model has.
    """
    snapshots = min(SNAPSHOTS, RECORDED_NUMBERS // max(numbers, 1))
    return max(1, math.ceil(steps / max(snapshots - 1, 1)))


def _rationals(pl_module: Any) -> dict[str, GroupRational]:
    modules = pl_module.model.named_modules()
    return {name: module for name, module in modules if isinstance(module, GroupRational)}


@torch.no_grad()
def _snapshot(layer: GroupRational, step: int) -> LayerHistory:
    parts = (layer.weight_numerator, layer.weight_denominator)
    a, b = (whole(part.detach()).cpu().float().clone()[None] for part in parts)
    return LayerHistory(layer.form, torch.tensor([step]), a, b)


def log_stability(logger: TensorBoardLogger, rows: list[dict[str, Any]], step: int) -> None:
    """Writes the rows of a step as scalars ``stability/LAYER/QUANTITY``."""
    scalars = {
        f"stability/{row['layer']}/{name}": value
        for row in rows
        for name, value in row.items()
        if name not in ("step", "layer")
    }
    logger.log_metrics(scalars, step)
