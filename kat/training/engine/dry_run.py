"""A dry run: build everything, train a few steps, and write nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kat.data import Batch
from kat.errors import InputError
from kat.models import ModelRecord
from kat.text import counted, duration, scaled
from kat.training.callbacks.throughput import Throughput
from kat.training.cluster.processes import launch
from kat.training.config import TrainConfig
from kat.training.engine.loop import fit
from kat.training.engine.trainer import open_run
from kat.training.record.checkpoint import bytes_by_part, bytes_of_directory, check_disk
from kat.training.record.meter import Work
from kat.training.record.run import Run
from kat.training.settings.resolve import ResolvedRun, resolve

WARM_UP, STEPS = 1, 3
"""Untimed and timed steps."""


@dataclass
class DryRun:
    """The results of a dry run.

    Args:
        record: record of the model.
        parameters: number of parameters of the model.
        size: bytes of weights, gradients, optimizer state and EMA, unsharded.
        peak: peak memory of the first process, in bytes.
        work: work of the timed steps.
        epoch: estimated seconds per epoch, validation included.
        free: free bytes on the disk that will be written to.
        lines: further lines to print, by label.

    Examples:
        >>> from kat.training import ModelConfig, TrainConfig, measure_dry_run
        >>> model = ModelConfig("kat_micro_patch2_8", {"depth": 1})
        >>> found = measure_dry_run(TrainConfig(out="runs/new", accelerator="cpu", model=model))
        >>> found.rows()["model"]
        'kat_micro_patch2_8, input (1, 8, 8), 10 classes'
    """

    record: ModelRecord
    parameters: int
    size: dict[str, int]
    peak: int
    work: Work
    epoch: float
    free: int
    lines: dict[str, str]

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint: everything but the gradients."""
        return sum(self.size.values()) - self.size["gradients"]

    def rows(self) -> dict[str, str]:
        """Return the lines to print, by label."""
        record, work = self.record, self.work
        parts = (f"{name} {scaled(value, 'B')}" for name, value in self.size.items() if value)
        needed = bytes_of_directory(self.size)
        model = f"{record.architecture}, input {record.input_size}, {len(record.classes)} classes"
        speed = (
            f"{work.images_per_second:.4g} images/s, {work.seconds / STEPS:.3g} s per step,"
            f" data wait {100 * work.wait_share:.0f} % ({STEPS} steps after {WARM_UP} to warm up)"
        )
        rows = {"model": model, "parameters": f"{self.parameters:,}", **self.lines, "speed": speed}
        rows["time"] = f"about {duration(self.epoch)} per epoch"
        rows["memory"] = f"peak {scaled(self.peak, 'B')}, of which {', '.join(parts)}"
        rows["checkpoint"] = scaled(self.checkpoint, "B")
        rows["disk"] = f"{scaled(needed, 'B')} needed, {scaled(self.free, 'B')} free"
        return rows


def measure_dry_run(config: TrainConfig | Mapping[str, Any]) -> DryRun:
    """Build a run, take a few steps, validate one batch, and check the disk space.

    Nothing is written but caches: of compiled kernels, of the index of tar files, of downloads.

    Args:
        config: the settings, as of :func:`train`.

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
    if resolved.world.needs_launch:
        launch(resolved.world)
    with open_run(resolved) as run:
        for note in resolved.notes:
            run.print(note)
        steps = _Steps()
        run.callbacks = [steps]
        batches, val_batches = run.batches, run.val_batches
        run.batches = min(batches, (WARM_UP + STEPS) * run.state.division.accumulate)
        run.val_batches, run.epochs = 1, WARM_UP + STEPS
        fit(run)
    loss = math.nan if run.loss is None else run.loss.item()
    found = DryRun(
        record=run.record,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        size=bytes_by_part(run),
        peak=steps.peak,
        work=steps.work,
        epoch=batches * steps.work.seconds_per_batch + val_batches * steps.validation,
        free=check_disk(run),
        lines={**_images(resolved), "loss": f"{loss:.4f} after {run.state.step} steps"},
    )
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} after {run.state.step} steps")
    return found


class _Steps(Throughput):
    """Times the steps after the warm-up, besides the validation and the peak memory."""

    work = start = Work()

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Note where the timed steps begin; the last one ends the run."""
        if stepped and run.state.step == WARM_UP:
            self.start = _read(run)
        run.should_stop |= stepped and run.state.step == WARM_UP + STEPS
        if run.should_stop or run.state.validating:
            self.work = _read(run).since(self.start)


def _read(run: Run) -> Work:
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return run.meter.read()


def _images(resolved: ResolvedRun) -> dict[str, str]:
    found = {}
    for name, data in (("training", resolved.train_data), ("validation", resolved.val_data)):
        left = f"; {counted(len(data.ignored), 'file')} left out" if data.ignored else ""
        found[f"{name} data"] = f"{len(data):,} images{left}"
    return found
