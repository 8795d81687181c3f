"""A rehearsal of a run: everything is built, a few steps are made, nothing is left behind."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from kat.data import ImageSet, ImageStream, UnreadableImage
from kat.errors import InputError
from kat.models import ModelRecord
from kat.text import duration, scaled
from kat.training.config import TrainConfig
from kat.training.lightning_setup import make_trainer, quiet
from kat.training.limits import length, limited
from kat.training.monitoring import Monitor
from kat.training.run import Assembly, assemble, fit, trainer_settings
from kat.training.run_directory import CHECKPOINTS_AT_ONCE
from kat.training.throughput import Meter, Work, peak_bytes

WARM_UP, STEPS, SAMPLE = 1, 3, 64
"""Steps before the clock runs, steps that are timed, images of each split that are decoded."""


@dataclass
class Sample:
    """What decoding some images of a split gave.

    Args:
        images: in the split; None for a stream that does not know.
        ignored: files that are not named as images.
        decoded: how many were tried.
        unreadable: the names of those that cannot be read.
    """

    images: int | None
    ignored: int
    decoded: int
    unreadable: list[str]

    def __str__(self) -> str:
        images = "a stream" if self.images is None else f"{self.images:,} images"
        first = f", first {self.unreadable[0]}" if self.unreadable else ""
        ignored = f"; {self.ignored} files are no images" if self.ignored else ""
        bad = len(self.unreadable)
        return f"{images}; of {self.decoded} tried {bad} cannot be read{first}{ignored}"


@dataclass
class Size:
    """Bytes of what training holds, by what it is; whole, also where processes share it.

    Args:
        weights: parameters and buffers.
        gradients: of the parameters that are trained.
        optimiser: its state.
        average: the moving average of the weights.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int

    @property
    def checkpoint(self) -> int:
        """Of one checkpoint: everything but the gradients."""
        return self.weights + self.optimiser + self.average

    @property
    def folder(self) -> int:
        """The most that a run's folder holds at once, logs left out."""
        return CHECKPOINTS_AT_ONCE * self.checkpoint + self.weights

    def __str__(self) -> str:
        parts = (f"{name} {scaled(value, 'B')}" for name, value in vars(self).items() if value)
        return ", ".join(parts)


@dataclass
class Rehearsal:
    """What a rehearsal found out.

    Args:
        record: the model's.
        parameters: how many it has.
        train, val: what was seen of the data.
        size: of what training holds.
        peak: bytes of memory at the worst moment, in the first process.
        work: the timed steps.
        steps: how many those are.
        epoch: seconds of an epoch as they suggest, validation included; None for streams.
        epochs: that the run will have.
        place: the folder whose disk will be written to.
        free: bytes free there.
        loss: of the last step.
    """

    record: ModelRecord
    parameters: int
    train: Sample
    val: Sample
    size: Size
    peak: int
    work: Work
    steps: int
    epoch: float | None
    epochs: int
    place: Path
    free: int
    loss: float

    def rows(self) -> dict[str, str]:
        """What is worth a line each, by its label."""
        speed = self.work.images_per_second
        step = self.work.seconds / self.steps
        times = "not known: the data is a stream"
        if self.epoch is not None:
            run = duration(self.epoch * self.epochs)
            times = f"about {duration(self.epoch)} an epoch, {run} for {self.epochs}"
        return {
            "model": f"{self.record.architecture}, input {self.record.input_size},"
            f" {len(self.record.classes)} classes",
            "parameters": f"{self.parameters:,}",
            "training data": str(self.train),
            "validation data": str(self.val),
            "speed": f"{speed:.4g} images/s, {step:.3g} s a step, data wait"
            f" {100 * self.work.wait_share:.0f} % ({self.steps} steps after {WARM_UP} to warm up)",
            "time": times,
            "memory": f"peak {scaled(self.peak, 'B')}, of which {self.size}",
            "checkpoint": scaled(self.size.checkpoint, "B"),
            "disk": f"{scaled(self.size.folder, 'B')} needed,"
            f" {scaled(self.free, 'B')} free in {self.place}",
            "loss": f"{self.loss:.4f} after {WARM_UP + self.steps} steps",
        }


def rehearse(config: TrainConfig, monitor: Monitor | None = None) -> Rehearsal:
    """Builds everything that a run needs, checks data and disk, makes three steps, validates once.

    Nothing is written to ``config.out``.

    Raises:
        InputError: what would stop the run: bad settings or data, no room for its checkpoints, a
            folder that cannot be written, a loss that is not finite.
    """
    place = _writable(Path(config.out))
    assembly = assemble(config, monitor)
    config = assembly.config
    train = _sample("train", assembly.train_data, config)
    val = _sample("val", assembly.val_data, config)
    steps = _Steps(assembly)
    with quiet(), tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(assembly, steps, folder)
        fit(trainer, assembly)
    if not math.isfinite(steps.loss):
        raise InputError(f"the loss is {steps.loss} after {trainer.global_step} steps")
    model = assembly.module.model
    size = _size(model, assembly.config, steps.state_share)
    free = shutil.disk_usage(place).free
    if free < size.folder:
        raise InputError(
            f"the checkpoints need {scaled(size.folder, 'B')},"
            f" but {place} has {scaled(free, 'B')} free"
        )
    return Rehearsal(
        record=assembly.record,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        train=train,
        val=val,
        size=size,
        peak=steps.peak,
        work=steps.work,
        steps=trainer.global_step - WARM_UP,
        epoch=steps.epoch,
        epochs=config.epochs,
        place=place,
        free=free,
        loss=steps.loss,
    )


class _Steps(Callback):
    """Times the steps after the warm-up, and validation; looks at memory when all is done."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly
        self.meter = Meter()
        self.work = self._start = Work()
        self._warm = 0
        self.epoch: float | None = None
        self.peak = 0
        self.loss = math.nan
        self.state_share = 0.0
        """Bytes of the optimiser's state for each byte of the parameters that it trains."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.meter.resume()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch."""
        self.meter.count(len(batch.labels) * trainer.world_size)
        if self._warm < WARM_UP:
            self._warm, self._start = trainer.global_step, self._read(trainer)
        self.loss = float(trainer.callback_metrics["train/loss_step"])

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training."""
        self._read(trainer)
        self.meter.pause()
        self._validating = self.meter.clock()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets it go on."""
        self.validation = self.meter.clock() - self._validating
        self.meter.resume()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the conclusions, while the processes still know of each other."""
        self.work = self._read(trainer).since(self._start)
        self.peak = peak_bytes(trainer.strategy.root_device)
        state = trainer.optimizers[0].state
        held = tensor_bytes(state.keys())
        tensors = itertools.chain.from_iterable(entries.values() for entries in state.values())
        self.state_share = tensor_bytes(tensors) / held if held else 0.0
        config, loaders = self.assembly.config, self.assembly
        batches, val_batches = length(loaders.train_loader), length(loaders.val_loader)
        if batches is not None and val_batches is not None:
            self.epoch = (
                limited(batches, config.limit_train_batches) * self.work.seconds_per_batch
                + limited(val_batches, config.limit_val_batches) * self.validation
            )

    def _read(self, trainer: Trainer) -> Work:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        return self.meter.read()


def _trainer(assembly: Assembly, steps: _Steps, folder: str) -> Trainer:
    config, total = assembly.config, WARM_UP + STEPS
    return make_trainer(
        **{**trainer_settings(config), "max_epochs": -1},
        max_steps=total,
        limit_train_batches=total * config.optim.accumulate_grad_batches,
        limit_val_batches=1,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=folder,
        callbacks=[steps],
        profiler=steps.meter,
    )


def _sample(split: str, data: ImageSet | ImageStream, config: TrainConfig) -> Sample:
    """Decodes images from all over a split. A stream's first ones are read in the steps."""
    if isinstance(data, ImageStream):
        return Sample(None, 0, 0, [])
    unreadable = []
    indices = range(0, len(data), max(1, len(data) // SAMPLE))[:SAMPLE]
    for index in indices:
        try:
            data.decode(data.read(index)[0], index)
        except UnreadableImage as error:
            if config.data.bad_images == "fail":
                raise InputError(str(error)) from None
            unreadable.append(error.name)
    if len(unreadable) == len(indices):
        raise InputError(
            f"none of {len(indices)} images of the {split} split can be read, first {unreadable[0]}"
        )
    return Sample(len(data), len(data.ignored), len(indices), unreadable)


def _size(model: nn.Module, config: TrainConfig, state_share: float) -> Size:
    weights = tensor_bytes([*model.parameters(), *model.buffers()])
    trained = tensor_bytes(p for p in model.parameters() if p.requires_grad)
    average = weights if config.optim.ema_decay > 0 else 0
    return Size(weights, trained, round(trained * state_share), average)


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the tensors among these."""
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _writable(out: Path) -> Path:
    """The nearest folder that exists, ``out`` or above it, where a file could be made."""
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            return place
    except OSError as error:
        raise InputError(f"{out} cannot be written: {place}: {error.strerror}") from None
