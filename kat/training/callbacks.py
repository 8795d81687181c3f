"""What happens beside the training steps: checkpoints, the average of the weights, a monitor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from kat.training.folder import BEST, LAST, STABILITY


def checkpoints(folder: Path) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """What writes best.ckpt, by top-1 on the validation split, and last.ckpt, after every epoch.

    Two of them, since Lightning's ``save_last`` skips the epochs that are not the best so far.
    """
    place: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    best = ModelCheckpoint(filename=Path(BEST).stem, monitor="val/top1", mode="max", **place)
    return best, ModelCheckpoint(filename=Path(LAST).stem, **place)


class EmaWeights(WeightAveraging):
    """avg <- d avg + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 + t)).

    The average takes the weights' place in validation and in checkpoints. The warm-up lets a run
    of a few hundred steps forget its initial weights.

    Args:
        decay: d after the warm-up, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=partial(_average, decay))

    def averages(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers, by their names in the model that is trained."""
        assert self._average_model is not None
        average: Any = self._average_model.module
        model = average.model
        return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _average(decay: float, averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    t = float(steps)
    return averaged.lerp(current, 1 - min(decay, (1 + t) / (10 + t)))


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

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the record so far."""
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
