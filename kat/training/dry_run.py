"""A dry run: builds everything, trains a few steps, and writes nothing."""

from __future__ import annotations

import itertools
import math
import shutil
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
from kat.nn.monitoring.stability import StabilityMonitor
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
"""Untimed steps, timed steps, and images of each split that are decoded."""


@dataclass
class Sample:
    """The result of decoding some images of a split.

    Args:
        images: number of images in the split; None for a stream.
        ignored: number of files that are left out, such as those that are not named as images.
        decoded: number of images that were decoded or failed to decode.
        unreadable: names of the unreadable images among them.
    """

    images: int | None
    ignored: int
    decoded: int
    unreadable: list[str]

    def __str__(self) -> str:
        images = "a stream" if self.images is None else f"{self.images:,} images"
        first = f", first {self.unreadable[0]}" if self.unreadable else ""
        ignored = f"; {self.ignored} files are left out" if self.ignored else ""
        bad = len(self.unreadable)
        return f"{images}; {bad} of {self.decoded} checked are unreadable{first}{ignored}"


@dataclass
class Size:
    """Memory of the training state in bytes, unsharded.

    Args:
        weights: parameters and buffers.
        gradients: gradients of the trainable parameters.
        optimizer: optimizer state.
        ema: EMA of the weights.
    """

    weights: int
    gradients: int
    optimizer: int
    ema: int

    @property
    def checkpoint(self) -> int:
        """Size of a checkpoint: everything but the gradients."""
        return self.weights + self.optimizer + self.ema

    @property
    def directory(self) -> int:
        """Largest size of a run directory, without logs."""
        return CHECKPOINTS_AT_ONCE * self.checkpoint + self.weights

    def __str__(self) -> str:
        parts = (f"{name} {scaled(value, 'B')}" for name, value in vars(self).items() if value)
        return ", ".join(parts)


@dataclass
class DryRun:
    """The results of a dry run.

    Args:
        record: record of the model.
        parameters: number of parameters of the model.
        train: sample of the training data.
        val: sample of the validation data.
        size: memory of the training state.
        peak: peak memory of the first process, in bytes.
        work: work of the timed steps.
        steps: number of timed steps.
        epoch: estimated seconds per epoch, validation included; None for streams.
        epochs: number of epochs of the run.
        place: folder on the disk that will be written to.
        free: free bytes on that disk.
        loss: loss of the last step.

    Examples:
        >>> from kat.training import ModelConfig, TrainConfig, measure_dry_run
        >>> model = ModelConfig("kat_micro_patch2_8", {"depth": 1})
        >>> found = measure_dry_run(TrainConfig(out="runs/new", accelerator="cpu", model=model))
        >>> found.rows()["model"]
        'kat_micro_patch2_8, input (1, 8, 8), 10 classes'
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
        """The lines to print, by label."""
        speed = self.work.images_per_second
        step = self.work.seconds / self.steps
        times = "unknown: the data is a stream"
        if self.epoch is not None:
            run = duration(self.epoch * self.epochs)
            times = f"about {duration(self.epoch)} per epoch, {run} for {self.epochs}"
        return {
            "model": f"{self.record.architecture}, input {self.record.input_size},"
            f" {len(self.record.classes)} classes",
            "parameters": f"{self.parameters:,}",
            "training data": str(self.train),
            "validation data": str(self.val),
            "speed": f"{speed:.4g} images/s, {step:.3g} s per step, data wait"
            f" {100 * self.work.wait_share:.0f} % ({self.steps} steps after {WARM_UP} to warm up)",
            "time": times,
            "memory": f"peak {scaled(self.peak, 'B')}, of which {self.size}",
            "checkpoint": scaled(self.size.checkpoint, "B"),
            "disk": f"{scaled(self.size.directory, 'B')} needed,"
            f" {scaled(self.free, 'B')} free in {self.place}",
            "loss": f"{self.loss:.4f} after {WARM_UP + self.steps} steps",
        }


def measure_dry_run(config: TrainConfig) -> DryRun:
    """Builds a run, checks data and disk space, takes a few steps and validates one batch.

    Nothing is written but caches: of compiled kernels, of the index of tar files, of downloads.

    Raises:
        InputError: the run would fail: bad settings or data, too little disk space for its
            checkpoints, a directory that cannot be written, or a loss that is not finite.

    Examples:
        >>> from kat.training import ModelConfig, TrainConfig, measure_dry_run
        >>> model = ModelConfig("kat_micro_patch2_8", {"depth": 1})
        >>> found = measure_dry_run(TrainConfig(out="runs/new", accelerator="cpu", model=model))
        >>> found.parameters
        52310
    """
    resolved = resolve(config)
    train = _sample("train", resolved.train_data, resolved.config)
    val = _sample("val", resolved.val_data, resolved.config)
    run = build(resolved)
    for note in resolved.notes:
        run.print(note)
    steps = _Steps()
    run.callbacks = [steps]
    if run.config.monitor.enabled:
        StabilityMonitor(run.config.monitor.every_n_steps).attach(run.model)  # may raise InputError
    batches, val_batches = run.batches, run.val_batches
    run.batches = min(batches, (WARM_UP + STEPS) * run.state.division.accumulate)
    run.val_batches, run.val_limit, run.epochs = 1, 1, WARM_UP + STEPS
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
    out = Path(config.out).absolute()
    place = next(path for path in (out, *out.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size.directory:
        raise InputError(
            f"the checkpoints need {scaled(size.directory, 'B')}, but {place} has"
            f" {scaled(free, 'B')} free"
        )
    epoch = batches * steps.work.seconds_per_batch + val_batches * steps.validation
    return DryRun(
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
    """Times the steps after the warm-up and the validation; measures peak memory at the end."""

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
        """Stops the training clock and starts that of validation."""
        self.work = _read(run).since(self._start)
        run.meter.pause()
        self._validating = run.meter.clock()

    def on_validation_end(self, run: Run) -> None:
        """Records the time of the validation and the peak memory."""
        self.validation = run.meter.clock() - self._validating
        self.peak = peak_bytes(run.device)


def _read(run: Run) -> Work:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return run.meter.read()


def _sample(split: str, data: ImageDataset | ImageStream, config: TrainConfig) -> Sample:
    """Decodes evenly spaced images of a split; none of a stream, which the steps read anyway."""
    if isinstance(data, ImageStream):
        return Sample(None, 0, 0, [])
    unreadable = []
    indices = range(0, len(data), max(1, len(data) // SAMPLE))[:SAMPLE]
    for index in indices:
        try:
            data.decode(*data.read(index), index)
        except UnreadableImage as error:
            if config.data.bad_images == "fail":
                raise InputError(str(error)) from None
            unreadable.append(error.name)
    if len(unreadable) == len(indices):
        raise InputError(
            f"all {len(indices)} images checked in the {split} split are unreadable, first"
            f" {unreadable[0]}"
        )
    return Sample(len(data), len(data.ignored), len(indices), unreadable)


def _size(run: Run) -> Size:
    weights = tensor_bytes([*run.model.parameters(), *run.model.buffers()])
    gradients = tensor_bytes(p for p in run.model.parameters() if p.requires_grad)
    entries = itertools.chain.from_iterable(e.values() for e in run.optimizer.state.values())
    return Size(weights, gradients, tensor_bytes(entries), weights if run.ema else 0)


def tensor_bytes(tensors: Iterable[Any]) -> int:
    """The total size in bytes of the tensors among some values."""
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
