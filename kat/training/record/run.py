"""A training run, the callbacks that it calls, and the loggers that it writes to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kat.data import Batch, DeviceTransform, Loader
from kat.data.folders import left_out
from kat.models import Conversion, ModelRecord
from kat.nn.stability import StabilityMonitor
from kat.text import say, warn
from kat.training.cluster.collectives import gather
from kat.training.cluster.processes import World
from kat.training.config import TrainConfig
from kat.training.optim.ema import EMA
from kat.training.optim.optimizer import Schedule
from kat.training.optim.precision import Precision
from kat.training.record.meter import Meter
from kat.training.record.run_directory import Checkpoint
from kat.training.record.state import TrainState
from kat.training.tasks.task import Metrics, Task

Status = Literal["finished", "failed"]


class Callback:
    """Code that runs at fixed points of training; each method does nothing by default.

    ``run.state`` has the step, the epoch and the batch.
    """

    name: str | None = None
    """The name of its state in checkpoints; None: it has no state."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`, before :meth:`on_fit_start`."""

    def on_fit_start(self, run: Run) -> None:
        """Training, or its resumption, begins."""

    def on_epoch_start(self, run: Run) -> None:
        """Run when an epoch begins or is resumed: within it, or in its validation."""

    def on_batch_start(self, run: Run, index: int) -> None:
        """Run before training on the batch of this index within the epoch."""

    def on_before_step(self, run: Run) -> None:
        """Run when the gradients of a step are there, unscaled and not yet clipped."""

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Run after training on a batch; ``stepped``: the optimizer has taken its step."""

    def on_validation_start(self, run: Run) -> None:
        """Run when validation begins."""

    def on_validation_batch_end(self, run: Run, index: int, batch: Batch) -> None:
        """Run after a batch is validated."""

    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Run after validation, before its metrics are logged; a task may have no loss."""

    def on_epoch_end(self, run: Run) -> None:
        """Run when the epoch has its row in ``run.state.history``."""

    def on_checkpoint(self, run: Run) -> None:
        """Run before the state of the run is written."""

    def on_fit_end(self, run: Run) -> None:
        """Run when the last epoch, or a limit, is reached."""

    def on_exception(self, run: Run) -> None:
        """Run when the run is stopped, by an error or a signal."""


class Logger:
    """Destination of the numbers of a run; in the first process."""

    run_id: str | None = None
    """The id that a service has given the run."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values by name, at a step counted from 0."""

    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """Log the settings of the run, nested as in run.yaml."""

    def close(self, status: Status) -> None:
        """End the run of the service."""


class RunningMean:
    """sum_i w_i x_i / sum_i w_i over all ranks, summed on the device without waiting for it."""

    total: Tensor | float = 0.0
    weight = 0

    def update(self, value: Tensor, weight: int) -> None:
        """Add a value."""
        dtype = torch.float32 if value.device.type == "mps" else torch.float64
        self.total = self.total + value.to(dtype) * weight
        self.weight += weight

    def compute(self) -> float:
        """Return the mean; a collective."""
        states = gather(self.state())
        return sum(total for total, _ in states) / max(1, sum(weight for _, weight in states))

    def reset(self) -> None:
        """Set it to zero."""
        self.total, self.weight = 0.0, 0

    def state(self) -> tuple[float, int]:
        """Return sum and weight of this rank."""
        return float(self.total), self.weight

    def load(self, state: tuple[float, int]) -> None:
        """Restore :meth:`state`."""
        self.total, self.weight = state


@dataclass
class Run:
    """Everything that the training loop works with.

    Args:
        config: the settings, none of them auto.
        task: the loss and the metrics.
        record: the record of the model.
        model: the model that is trained.
        wrapped: the module that training calls: the model, or DDP around it.
        conversion: the parameters that were carried over from a trained model.
        monitor: records the GR-KAN layers, if that is wanted.
        optimizer, schedule, precision: how the model is trained.
        ema: the EMA of the weights, which is validated and kept in their place.
        train_loader, val_loader: the batches of the two splits.
        batches, val_batches: batches of an epoch and a validation in this process.
        epochs: the number of epochs.
        device: the device of this process.
        world: its place among the processes that train together.
        state: the progress of the run.
        callbacks: in the order in which they are called.
        loggers: in the first process.
        should_stop: ends the epoch, which is still validated, and the run.
        id: the id of the run in run.yaml and the checkpoints; the same in all processes.
        resumed_from: the checkpoint; once it is restored, without its content.
        loss: the loss of the last batch that was trained on.
        printed: the skipped files that have been printed.
    """

    config: TrainConfig
    task: Task
    record: ModelRecord
    model: nn.Module
    wrapped: nn.Module
    conversion: Conversion | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    ema: EMA | None
    train_loader: Loader
    val_loader: Loader
    batches: int
    val_batches: int
    epochs: int
    device: torch.device
    world: World
    state: TrainState
    metrics: Metrics
    raw_metrics: Metrics
    prepare: DeviceTransform
    train_loss: RunningMean = field(default_factory=RunningMean)
    callbacks: list[Callback] = field(default_factory=list)
    loggers: list[Logger] = field(default_factory=list)
    monitor: StabilityMonitor | None = None
    meter: Meter = field(default_factory=Meter)
    should_stop: bool = False
    id: str = ""
    resumed_from: Checkpoint | None = None
    loss: Tensor | None = None
    printed: set[str] = field(default_factory=set)

    @property
    def out(self) -> Path:
        """The run directory."""
        return Path(self.config.out)

    @property
    def is_first(self) -> bool:
        """True in the process that writes and prints."""
        return self.world.rank == 0

    def kept_weights(self) -> AbstractContextManager[None]:
        """Swap the EMA into the model within the context, if there is one."""
        return nullcontext() if self.ema is None else self.ema.swapped()

    def print_skipped(self) -> None:
        """Print the files that were skipped since the last call, by reason."""
        new = {path: why for path, why in self.state.skipped.items() if path not in self.printed}
        self.printed |= {*new}
        for line in left_out(new):
            self.print(line)

    def print(self, line: str) -> None:
        """Print a line in the first process; training outlives the reader of its output."""
        if not self.is_first:
            return
        try:
            say(line)
            sys.stdout.flush()
        except OSError as error:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            warn(f"warning: training continues without standard output: {error.strerror}")

    def log(self, values: Mapping[str, float]) -> None:
        """Give values to all loggers, at the last step, counted from 0."""
        for logger in self.loggers:
            logger.log({"epoch": self.state.epoch, **values}, self.state.step - 1)


def map_tensors(content: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to the tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        return function(content)
    if isinstance(content, Mapping):
        return {name: map_tensors(item, function) for name, item in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map_tensors(item, function) for item in content)
    return content
