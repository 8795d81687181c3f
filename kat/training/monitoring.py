"""What records the layers of a model while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from kat.training.folder import STABILITY


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


def log_stability(logger: TensorBoardLogger, rows: list[dict[str, Any]], step: int) -> None:
    """Writes the rows of a step as scalars ``stability/LAYER/QUANTITY``."""
    scalars = {
        f"stability/{row['layer']}/{name}": value
        for row in rows
        for name, value in row.items()
        if name not in ("step", "layer")
    }
    logger.log_metrics(scalars, step)
