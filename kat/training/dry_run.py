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
from torch import Tensor

from kat.data import Batch, ImageDataset, ImageStream, UnreadableImage
from kat.errors import InputError
from kat.machine import peak_bytes
from kat.models import ModelRecord
from kat.nn.stability import StabilityMonitor
from kat.text import duration, scaled
from kat.training.build import Run, build
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.throughput import Work
from kat.training.config import TrainConfig
from kat.training.distributed import disconnect
from kat.training.loop import fit
from kat.training.resolve import resolve
from kat.training.run_directory import CHECKPOINTS_AT_ONCE

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
        optimizer: its state.
        ema: the moving average of the weights.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int

    @property
    def checkpoint(self) -> int:
        """Of one checkpoint: everything but the gradients."""
        return self.weights + self.optimizer + self.ema

    @property
    def directory(self) -> int:
        """The most that a run directory holds at once, without logs."""
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
            "disk": f"{scaled(self.size.directory, 'B')} needed,"
            f" {scaled(self.free, 'B')} free in {self.place}",
            "loss": f"{self.loss:.4f} after {WARM_UP + self.steps} steps",
        }


def rehearse(config: TrainConfig) -> Rehearsal:
    """Builds everything that a run needs, checks data and disk, takes a few steps, validates once.

    Nothing is written.

    Raises:
        InputError: what would stop the run: bad settings or data, no room for its checkpoints, a
            directory that cannot be written, a loss that is not finite.
    """
    place = _writable(Path(config.out))
    resolved = resolve(config)
    train = _sample("train", resolved.train_data, resolved.config)
    val = _sample("val", resolved.val_data, resolved.config)
    run = build(resolved)
    steps = _Steps()
    run.callbacks = [steps]
    if run.config.monitor.enabled:
        StabilityMonitor(run.config.monitor.every_n_steps).attach(run.model)  # which may refuse it
    batches, val_batches = run.batches, run.val_batches
    run.batches = min(batches, (WARM_UP + STEPS) * run.state.division.accumulate)
    run.val_batches, run.epochs = 1, WARM_UP + STEPS
    try:
        fit(run)
    finally:
        run.train_loader.close()
        run.val_loader.close()
        disconnect()
    loss = math.nan if run.loss is None else run.loss.item()
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} after {run.state.step} steps")
    size = _size(run)
    free = shutil.disk_usage(place).free
    if free < size.directory:
        raise InputError(
            f"the checkpoints need {scaled(size.directory, 'B')}, but {place} has"
            f" {scaled(free, 'B')} free"
        )
    epoch = batches * steps.work.seconds_per_batch + val_batches * steps.validation
    return Rehearsal(
        record=run.record,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        train=train,
        val=val,
        size=size,
        peak=steps.peak,
        work=steps.work,
        steps=run.state.step - WARM_UP,
        epoch=None if math.isinf(epoch) else epoch,
        epochs=run.config.epochs,
        place=place,
        free=free,
        loss=loss,
    )


class _Steps(Callback):
    """Times the steps after the warm-up, and validation; looks at memory when all is done."""

    def __init__(self) -> None:
        self.work = self._start = Work()
        self.validation = 0.0
        self.peak = 0

    def on_epoch_start(self, run: Run) -> None:
        """Starts the clock."""
        run.meter.resume()

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Counts the batch; the last step ends the run."""
        run.meter.count(len(batch.labels) * run.world.size)
        if stepped and run.state.step == WARM_UP:
            self._start = _read(run)
        if stepped and run.state.step == WARM_UP + STEPS:
            run.should_stop = True

    def on_validation_start(self, run: Run) -> None:
        """Stops the clock of training."""
        self.work = _read(run).since(self._start)
        run.meter.pause()
        self._validating = run.meter.clock()

    def on_validation_end(self, run: Run) -> None:
        """Notes how long it took."""
        self.validation = run.meter.clock() - self._validating
        self.peak = peak_bytes(run.device)


def _read(run: Run) -> Work:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return run.meter.read()


def _sample(split: str, data: ImageDataset | ImageStream, config: TrainConfig) -> Sample:
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


def _size(run: Run) -> Size:
    weights = tensor_bytes([*run.model.parameters(), *run.model.buffers()])
    gradients = tensor_bytes(p for p in run.model.parameters() if p.requires_grad)
    entries = itertools.chain.from_iterable(e.values() for e in run.optimizer.state.values())
    return Size(weights, gradients, tensor_bytes(entries), weights if run.ema else 0)


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
