"""Compares how fast images are loaded with how fast a model trains on them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kat.data import ImageDataset, open_split
from kat.data.benchmark import loading_rate, stage_times
from kat.errors import InputError
from kat.machine import cores
from kat.text import counted
from kat.training.auto_settings import automatic
from kat.training.build import build
from kat.training.config import TrainConfig, check
from kat.training.loop import forward_backward, take_step
from kat.training.resolve import ResolvedRun, make_record, resolve
from kat.training.tasks.registry import TASKS

_ADVICE = {
    "read": "copy the data to a local disk, or many small files into tar shards (docs/data.md)",
    "decode": "use more cores; smaller images decode faster, but change the training data",
    "augment": "use more cores; a cheaper augment.auto_augment would change the training",
    "collate": "use more cores",
}
_WARM_UP, _LEAST_STEPS = 2, 3
_MARGIN_WITHOUT_WORKERS = 10
_LEAST_SCALING = 0.5


@dataclass(frozen=True)
class DataBenchmark:
    """Throughput of data loading and of training in one process.

    Args:
        data: name of the dataset.
        cores: number of cores that this process may use.
        loader: images/s of the loader alone, by its number of workers.
        stages: seconds per image in each stage, one after the other in one process; empty for a
            stream, whose stages cannot be separated.
        need: training throughput of the model, in images/s.
        need_of: name of the model, for the verdict.
        unreadable: number of unreadable images among those loaded.
    """

    data: str
    cores: int
    loader: dict[int, float]
    stages: dict[str, float]
    need: float
    need_of: str
    unreadable: int

    @property
    def bottleneck(self) -> str:
        """``"model"`` or ``"data"``."""
        return "data" if self.measured_workers is None else "model"

    @property
    def measured_workers(self) -> int | None:
        """The smallest measured number of workers that is enough for the model, or None.

        Without workers, the model waits while images are loaded. That is enough if the loader is
        ten times as fast as the model.
        """
        margins = {count: _MARGIN_WITHOUT_WORKERS if count == 0 else 1 for count in self.loader}
        enough = [c for c, rate in self.loader.items() if rate >= margins[c] * self.need]
        return min(enough, default=None)

    @property
    def workers_needed(self) -> int | None:
        """The number of workers that is enough for the model, measured or extrapolated.

        None if the rate per worker drops by more than half between one worker and one per core:
        the limit is then something other than the workers.
        """
        if self.measured_workers is not None:
            return self.measured_workers
        within = [count for count in sorted(self.loader) if 1 <= count <= self.cores]
        most = within[-1] if within else min(self.loader)
        rate = self.loader[most] / max(most, 1)
        if len(within) > 1 and rate < _LEAST_SCALING * self.loader[within[0]] / within[0]:
            return None
        return math.ceil(self.need / rate)

    def verdict(self) -> str:
        """One line that names the bottleneck and suggests what to change."""
        best = max(self.loader, key=lambda count: self.loader[count])
        speeds = (
            f"{self.need_of} trains at {self.need:,.0f} images/s, and the loader yields at most"
            f" {self.loader[best]:,.0f}, with {counted(best, 'worker')}"
        )
        if self.bottleneck == "model":
            workers = self.measured_workers
            return f"The model is the bottleneck: {speeds}. data.num_workers={workers} is enough."
        return f"The data is the bottleneck: {speeds}. {self._more_workers()} {self._advice()}"

    def _more_workers(self) -> str:
        needed = self.workers_needed
        if needed is None:
            return "Loading hardly scales with workers, so the number that is enough is unknown."
        beyond = f", more than the {self.cores} cores here" if needed > self.cores else ""
        return f"About {needed} workers are enough (extrapolated, not measured{beyond})."

    def _advice(self) -> str:
        if not self.stages:
            return "Try shards on a local disk, which more processes can read in any order."
        slowest = max(self.stages, key=lambda stage: self.stages[stage])
        share = self.stages[slowest] / sum(self.stages.values())
        return f"The slowest stage is {slowest} ({share:.0%} of the time): {_ADVICE[slowest]}."

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            "data": self.data,
            "cores": self.cores,
            "loader_images_per_s": {str(count): rate for count, rate in self.loader.items()},
            "stages_ms_per_image": {name: 1e3 * t for name, t in self.stages.items()},
            "need_images_per_s": self.need,
            "need_of": self.need_of,
            "unreadable": self.unreadable,
            "bottleneck": self.bottleneck,
            "workers_needed": self.workers_needed,
            "extrapolated": self.measured_workers is None,
            "verdict": self.verdict(),
        }


def benchmark_data(
    config: TrainConfig,
    *,
    need: float | None = None,
    workers: Sequence[int] | None = None,
    seconds: float = 5.0,
    tell: Callable[[str], None] = lambda step: None,
) -> DataBenchmark:
    """Measures the loader, the stages of loading and the model, each for some seconds.

    Args:
        config: the settings of a run: its data, augmentation, model and batch are measured.
        need: known training throughput of a model, in images/s; None measures training steps of
            the run's model on one batch of the data.
        workers: numbers of workers to try; None: 0, 1, 2, 4, ... up to the number of cores, and
            ``config.data.num_workers``.
        seconds: duration of each measurement.
        tell: called with the name of each measurement before it starts.

    Raises:
        InputError: the settings are invalid, or the data cannot be opened.
    """
    config = check(config)
    if seconds <= 0 or (need is not None and not 0 < need < math.inf):
        raise InputError(f"seconds and need must be positive, got {seconds} and {need}")
    counts = sorted(set(default_workers(config) if workers is None else workers))
    if not counts or counts[0] < 0:
        raise InputError(f"the numbers of workers must be at least 0, got {counts}")
    if automatic(config):
        config = _resolved(config).config
    data = open_split(config.data, "train", config.seed)
    data.transform, _ = TASKS[data.task].transforms(make_record(config, data), config)
    stages: dict[str, float] = {}
    if isinstance(data, ImageDataset):
        tell("the stages of loading")
        stages = stage_times(data, config.data, config.seed, seconds)
    loader: dict[int, float] = {}
    unreadable = 0
    for count in counts:
        tell(f"the loader with {counted(count, 'worker')}")
        settings = replace(config.data, num_workers=count)
        loader[count], damaged = loading_rate(data, settings, config.seed, seconds)
        unreadable += damaged
    need_of = "the given model"
    if need is None:
        tell(f"training steps of {config.model.name}")
        need, device = _training_rate(config, seconds)
        need_of = f"{config.model.name} on {device}"
        if device.type == "cpu":
            need_of += " (with these cores to itself)"
    return DataBenchmark(config.data.name, cores(), loader, stages, need, need_of, unreadable)


def default_workers(config: TrainConfig) -> list[int]:
    """The numbers of workers to try: 0, 1, 2, 4, ..., the number of cores, and the setting."""
    powers = [2**power for power in range(cores().bit_length()) if 2**power <= cores()]
    return sorted({0, *powers, cores(), config.data.num_workers})


def _resolved(config: TrainConfig) -> ResolvedRun:
    """The run of these settings on one device, with every auto settled."""
    with tempfile.TemporaryDirectory() as out:
        anew = replace(config, out=out, resume=False, overwrite=False)
        return resolve(replace(anew, devices=1, num_nodes=1, strategy="auto"))


def _training_rate(config: TrainConfig, seconds: float) -> tuple[float, torch.device]:
    """Images/s of training steps on one batch of the data, and the device."""
    run = build(_resolved(replace(config, data=replace(config.data, num_workers=0))))
    batch, ends = next(iter(run.train_loader)), list[float]()
    run.model.train()
    while len(ends) <= _WARM_UP + _LEAST_STEPS or ends[-1] - ends[_WARM_UP] < seconds:
        for _ in range(config.optim.accumulate_grad_batches):
            forward_backward(run, batch, config.optim.accumulate_grad_batches)
        take_step(run)
        run.state.step += 1
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        ends.append(time.perf_counter())
    measured = ends[_WARM_UP:]
    steps = (len(measured) - 1) / (measured[-1] - measured[0])
    images = len(batch.labels) * config.optim.accumulate_grad_batches
    return images * steps, run.device
