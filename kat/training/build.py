"""A training run, built from what was resolved: model, optimizer, loaders, state."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kat.data import Batch, DeviceTransform, Loader, make_loader
from kat.data.workers import worker_server
from kat.errors import InputError
from kat.models import (
    Conversion,
    ModelRecord,
    build_model,
    init_from_vit,
    load_weights,
)
from kat.models.checkpoints.model_record import unseen_pixels
from kat.text import say, warn
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.loggers import Logger
from kat.training.callbacks.nonfinite import Attempt
from kat.training.callbacks.throughput import Meter
from kat.training.config import TrainConfig
from kat.training.distributed import World, connect, gather, wrap
from kat.training.optim.ema import EMA
from kat.training.optim.freeze import freeze
from kat.training.optim.optimizer import Schedule, check_layout, make_optimizer
from kat.training.optim.precision import Precision
from kat.training.resolve import ResolvedRun
from kat.training.run_directory import Checkpoint
from kat.training.state import Division, TrainState, rounding_factors
from kat.training.tasks.registry import check_task
from kat.training.tasks.task import Metrics, Task


@dataclass
class Run:
    """Everything that the training loop works with.

    Args:
        config: the settings, none of them auto.
        task: the loss and the metrics.
        record: the record of the model.
        model: what is trained.
        wrapped: what is called in training: the model, or DDP around it.
        conversion: what was carried over, where the run starts from a trained model.
        optimizer, schedule, precision: how it is trained.
        ema: the EMA of the weights; validated and kept in their place.
        train_loader, val_loader: the batches of the two splits.
        val_limit: how many batches a validation takes in this process; None: all.
        batches, val_batches: of an epoch and a validation, in this process; infinite where the data
            does not know.
        epochs: when the run is over.
        device: what this process computes on.
        world: its place among those that train together.
        state: how far the run is.
        callbacks: are called in this order.
        loggers: where numbers go; of the first process alone.
        should_stop: ends the epoch, which is still validated, and the run.
        id: of the run, in its run.yaml and its checkpoints; the same in all processes.
        resumed_from: the checkpoint; once it is restored, without its content.
        attempt: the forward pass of the current batch, until its outcome has been checked.
        loss: the loss of the last batch that was trained on.
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
    val_batches: float
    epochs: int
    device: torch.device
    world: World
    state: TrainState
    metrics: Metrics
    raw_metrics: Metrics
    prepare: DeviceTransform
    train_loss: RunningMean
    callbacks: list[Callback] = field(default_factory=list)
    val_limit: int | None = None
    loggers: list[Logger] = field(default_factory=list)
    meter: Meter = field(default_factory=Meter)
    should_stop: bool = False
    id: str = ""
    resumed_from: Checkpoint | None = None
    attempt: Attempt | None = None
    loss: Tensor | None = None

    @property
    def out(self) -> Path:
        """The run directory."""
        return Path(self.config.out)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.world.rank == 0

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.schedule.steps

    def prepared(self, batch: Batch, *, training: bool = False) -> Batch:
        """A batch on the device, its images normalized, and in training with rectangles erased."""
        batch = moved(batch, self.device)
        if isinstance(batch.images, Tensor):
            images = self.prepare(batch.images, batch.seeds if training else ())
            return batch._replace(images=self._laid_out(images))
        prepared = [self._laid_out(self.prepare(image[None]))[0] for image in batch.images]
        return batch._replace(images=prepared)

    def _laid_out(self, images: Tensor) -> Tensor:
        """In the precision of the run, and in memory as the settings have it."""
        if self.config.model.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.to(self.precision.dtype)

    def kept_weights(self) -> AbstractContextManager[None]:
        """Swaps the EMA into the model within the context, if there is one."""
        return nullcontext() if self.ema is None else self.ema.swapped()

    def report(self, unreadable: Iterable[tuple[str, str]]) -> None:
        """Reports unreadable images, each once.

        Raises:
            InputError: ``data.bad_images`` is ``fail``.
        """
        for path, reason in unreadable:
            if self.config.data.bad_images == "fail":
                raise InputError(f"{path} cannot be read as an image: {reason}")
            self.skip(path, f"it cannot be read as an image: {reason}")

    def skip(self, path: str, reason: str) -> None:
        """Reports a skipped file once."""
        if path not in self.state.skipped:
            self.state.skipped[path] = reason
            say(f"skipped {path}: {reason}")

    def print(self, line: str) -> None:
        """Prints a line in the first process."""
        if self.is_first:
            say(line)
            sys.stdout.flush()

    def notify(self, hook: Callable[..., None], *args: Any) -> None:
        """Calls a hook of all callbacks, such as ``Callback.on_epoch_start``, in their order."""
        for callback in self.callbacks:
            getattr(callback, hook.__name__)(self, *args)

    def log(self, values: Mapping[str, float]) -> None:
        """Gives values to all loggers, at the step that was taken last, counted from 0."""
        for logger in self.loggers:
            logger.log({"epoch": self.state.epoch, **values}, self.state.step - 1)


class RunningMean:
    """sum_i w_i x_i / sum_i w_i over all ranks; the device is not waited for before it is asked."""

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.total = torch.zeros((), dtype=dtype, device=device)
        self.weight = 0

    def update(self, value: Tensor, weight: int) -> None:
        """Adds a value."""
        self.total += value.to(self.total.dtype) * weight
        self.weight += weight

    def compute(self) -> float:
        """The mean; a collective."""
        states = gather(self.state())
        return sum(total for total, _ in states) / max(1, sum(weight for _, weight in states))

    def reset(self) -> None:
        """Forgets everything."""
        self.total.zero_()
        self.weight = 0

    def state(self) -> tuple[float, int]:
        """Sum and weight of this rank."""
        return self.total.item(), self.weight

    def load(self, states: list[tuple[float, int]], world: World) -> None:
        """Restores the states of all ranks; of another number of ranks, the first takes all."""
        if len(states) != world.size:
            total, weight = (sum(part) for part in zip(*states, strict=True))
            states = [(total, weight)] + [(0.0, 0)] * (world.size - 1)
        total, self.weight = states[world.rank]
        self.total.fill_(total)


def build(resolved: ResolvedRun) -> Run:
    """Builds model, optimizer and loaders, and has the processes meet; nothing is written.

    Raises:
        InputError: settings that do not fit the model, the data or the checkpoint.
    """
    config, record, device, world = (
        resolved.config, resolved.record, resolved.device, resolved.world
    )  # fmt: skip
    model = _build_model(config, record)
    unseen = unseen_pixels(model, record.input_size)
    if unseen and world.rank == 0:
        warn(f"warning: {unseen}")
    check_task(model, resolved.train_data, (config.model.name, config.data.name))
    resolved.task.check_model(model)
    conversion = _start_from_source(model, resolved)
    freeze(model, config.model.freeze)
    _arrange(model, config)
    if resolved.checkpoint is not None:
        _check_resumable(model, config, resolved.checkpoint)
    workers = worker_server() if world.size > 1 and config.data.num_workers else None
    train_loader = make_loader(
        resolved.train_data, config.data, training=True, seed=config.seed, workers=workers
    )
    val_loader = make_loader(resolved.val_data, config.data, training=False, workers=workers)
    connect(world, device)
    batches = _batches("train", len_of(train_loader), config.limit_train_batches)
    val_batches = _batches("val", len_of(val_loader), config.limit_val_batches)
    if math.isinf(batches):
        raise InputError(
            "the training data does not know its length: give a number of batches as"
            " limit_train_batches"
        )
    precision = Precision(config.precision, device)
    model.to(device, precision.dtype)
    wrapped = wrap(model, world, config.strategy, device)
    accumulate = config.optim.accumulate_grad_batches
    steps = math.ceil(batches / accumulate) * config.epochs
    optimizer = make_optimizer(model, config.optim)
    metrics, raw_metrics = (resolved.task.make_metrics().to(device) for _ in range(2))
    return Run(
        config=config,
        task=resolved.task,
        record=record,
        model=model,
        wrapped=wrapped,
        conversion=conversion,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config.optim, config.epochs, steps),
        precision=precision,
        ema=EMA(model, config.optim.ema_decay) if config.optim.ema_decay > 0 else None,
        train_loader=train_loader,
        val_loader=val_loader,
        batches=int(batches),
        val_batches=val_batches,
        val_limit=None if config.limit_val_batches is None else int(val_batches),
        epochs=config.epochs,
        device=device,
        world=world,
        state=TrainState(
            Division(world.size, train_loader.batch_size, accumulate), rounding_factors(device)
        ),
        metrics=metrics,
        raw_metrics=raw_metrics,
        prepare=DeviceTransform(record.mean, record.std, resolved.task.random_erasing),
        train_loss=RunningMean(device),
    )


def _build_model(config: TrainConfig, record: ModelRecord) -> nn.Module:
    rates = {"drop_path_rate": config.model.drop_path, "drop_rate": config.model.drop}
    return build_model(record, **{name: rate for name, rate in rates.items() if rate > 0})


def _start_from_source(model: nn.Module, resolved: ResolvedRun) -> Conversion | None:
    if resolved.source is None:
        return None
    settings = resolved.config.model
    fit = "act_init" not in settings.args
    return init_from_vit(model, resolved.source, activation=settings.init_activation, fit=fit)


def _arrange(model: Any, config: TrainConfig) -> None:
    if config.model.grad_checkpointing:
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError):  # as timm's models that have none do
            raise InputError(
                f"model.grad_checkpointing: {config.model.name} does not support it"
            ) from None
    if config.model.channels_last:
        model.to(memory_format=torch.channels_last)
    if config.model.compile:
        model.compile()


def _check_resumable(model: nn.Module, config: TrainConfig, checkpoint: Checkpoint) -> None:
    """Checks that weights and optimizer of a checkpoint are those of the settings."""
    load_weights(model, checkpoint.content["state_dict"], source=str(checkpoint.path))
    check_layout(model, config.optim, checkpoint.content)


def len_of(loader: Loader) -> float:
    """How many batches a loader has; infinite for a stream that does not know."""
    try:
        return len(loader)
    except TypeError:
        return math.inf


def _batches(split: str, total: float, limit: int | float | None) -> float:
    """How many of ``total`` batches a limit leaves: a number of them, or as a float their share.

    Raises:
        InputError: none, or a share of an unknown number.
    """
    name = f"limit_{split}_batches={limit}"
    if isinstance(limit, float) and limit < 1:
        if math.isinf(total):
            raise InputError(f"{name} is a share, but this data does not know its length")
        left = float(int(total * limit))
        if left < 1:
            raise InputError(f"{name} of {total} batches is less than one batch")
        return left
    if total < 1 and split == "train":
        raise InputError(
            "the training split has fewer images than one batch of data.batch_size in each process"
        )
    return total if limit is None or isinstance(limit, float) else min(total, limit)


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device; labels may be tensors, or dictionaries of them for each image."""

    def move(content: object) -> object:
        if isinstance(content, Tensor):
            return content.to(device, non_blocking=True)
        if isinstance(content, dict):
            return {name: move(item) for name, item in content.items()}
        if isinstance(content, list | tuple):
            return type(content)(map(move, content))
        return content

    if device.type == "cpu":
        return batch
    return batch._replace(images=move(batch.images), labels=move(batch.labels))
