"""How fast the images come, against how fast a model takes them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice, repeat
from typing import Any

import torch

from kat.data import (
    DataConfig,
    ImageSet,
    ImageStream,
    UnreadableImage,
    make_loader,
    open_split,
)
from kat.data.loaders import collate
from kat.errors import InputError
from kat.machine import cores
from kat.text import counted
from kat.training.build import build
from kat.training.config import TrainConfig, check
from kat.training.loop import forward_backward, take_step
from kat.training.resolve import make_record, resolve
from kat.training.tasks.registry import TASKS

STAGES = ("read", "decode", "augment", "collate")

_ADVICE = {
    "read": "copy the data to a local disk, or many small files into tar shards (docs/data.md)",
    "decode": "use more cores; smaller images decode faster, but are other training data",
    "augment": "use more cores; a cheaper augment.auto_augment would train another model",
    "collate": "use more cores",
}
_WARM_UP, _LEAST_STEPS = 2, 3
_ALONE, _SCALES = 10, 0.5


@dataclass(frozen=True)
class DataBenchmark:
    """What was measured, all in one process of training.

    Args:
        data: the data set's name.
        cores: that this process may use.
        loader: images/s of the loader alone, by the number of its workers.
        stages: seconds an image takes in each stage, one after the other in one process; none of a
            stream, which cannot be asked for its stages.
        need: images/s that the model takes.
        need_of: what takes them.
        unreadable: how many of the images loaded were damaged.
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
        """The least number of workers tried that load what the model takes, if any does.

        Without workers the model waits while images are loaded: that will do where it waits for
        less than a tenth of the time that it takes.
        """
        margins = {count: _ALONE if count == 0 else 1 for count in self.loader}
        enough = [c for c, rate in self.loader.items() if rate >= margins[c] * self.need]
        return min(enough, default=None)

    @property
    def workers_needed(self) -> int | None:
        """The workers that load what the model takes: tried, or extrapolated from those tried.

        None where more workers, up to the cores, brought less than half of what they should, so
        that something else is the limit.
        """
        if self.measured_workers is not None:
            return self.measured_workers
        within = [count for count in sorted(self.loader) if 1 <= count <= self.cores]
        most = within[-1] if within else min(self.loader)
        rate = self.loader[most] / max(most, 1)
        if len(within) > 1 and rate < _SCALES * self.loader[within[0]] / within[0]:
            return None
        return math.ceil(self.need / rate)

    def verdict(self) -> str:
        """One plain line: which is the bottleneck, and what to try."""
        best = max(self.loader, key=lambda count: self.loader[count])
        speeds = (
            f"{self.need_of} takes {self.need:,.0f} images/s, and the loader gives at best"
            f" {self.loader[best]:,.0f}, with {counted(best, 'worker')}"
        )
        if self.bottleneck == "model":
            workers = self.measured_workers
            return f"The model is the bottleneck: {speeds}. data.num_workers={workers} is enough."
        return f"The data is the bottleneck: {speeds}. {self._more_workers()} {self._advice()}"

    def _more_workers(self) -> str:
        needed = self.workers_needed
        if needed is None:
            return "More workers did not load much more, so it is not known how many would do."
        beyond = f", more than the {self.cores} cores here" if needed > self.cores else ""
        return f"About {needed} workers would do (extrapolated, not measured{beyond})."

    def _advice(self) -> str:
        if not self.stages:
            return "Shards on a local disk can be read at any index, by more processes."
        slowest = max(self.stages, key=lambda stage: self.stages[stage])
        share = self.stages[slowest] / sum(self.stages.values())
        return f"Most of an image's time goes into {slowest} ({share:.0%}): {_ADVICE[slowest]}."

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
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
    """Measures loader, stages and model, each for some seconds.

    Args:
        config: the run whose data, augmentation, model and batch are measured.
        need: images/s that a model takes which is not here; None measures the run's own model here,
            in training steps on one batch of the data.
        workers: the numbers of workers to try; None: 0, 1, 2, 4, ... up to the cores, and
            ``config.data.num_workers``.
        seconds: for each number of workers, for the stages and for the model.
        tell: is told of each measurement before it starts.

    Raises:
        InputError: bad settings, or data that cannot be opened.
    """
    check(config)
    if seconds <= 0 or (need is not None and not 0 < need < math.inf):
        raise InputError(f"seconds and need must be positive, got {seconds} and {need}")
    counts = sorted(set(default_workers(config) if workers is None else workers))
    if not counts or counts[0] < 0:
        raise InputError(f"the numbers of workers must be at least 0, got {counts}")
    data = open_split(config.data, "train", config.seed)
    record = make_record(config, data)
    data.transform, _ = TASKS[data.task].transforms(record, config)
    stages: dict[str, float] = {}
    if isinstance(data, ImageSet):
        tell("the stages of loading")
        stages = _stages(data, config, seconds)
    loader: dict[int, float] = {}
    unreadable = 0
    for count in counts:
        tell(f"the loader with {counted(count, 'worker')}")
        settings = replace(config.data, num_workers=count)
        loader[count], damaged = _loader_rate(data, settings, config.seed, seconds)
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
    """0, 1, 2, 4, ... up to the cores, and the run's own number."""
    powers = [2**power for power in range(cores().bit_length()) if 2**power <= cores()]
    return sorted({0, *powers, cores(), config.data.num_workers})


def _loader_rate(
    data: ImageSet | ImageStream, config: DataConfig, seed: int, seconds: float
) -> tuple[float, int]:
    """Images/s after the first batches, and how many images were damaged."""
    loader = make_loader(data, config, training=True, seed=seed)
    if len(loader) == 0:
        raise InputError(f"{config.name!r} has not one batch of {config.batch_size} images")
    batches = (batch for epoch in repeat(loader) for batch in epoch)
    for _ in range(1 + config.num_workers):  # until each worker has started
        next(batches)
    images = unreadable = 0
    passed, start = 0.0, time.perf_counter()
    while passed < seconds:
        batch = next(batches)
        images += len(batch.labels)
        unreadable += len(batch.unreadable)
        passed = time.perf_counter() - start
    batches.close()
    loader.close()
    if not images:
        raise InputError(f"no image of {config.name!r} can be read, first {batch.unreadable[0]}")
    return images / passed, unreadable


def _stages(data: ImageSet, config: TrainConfig, seconds: float) -> dict[str, float]:
    """Seconds an image in each stage, over batches of images drawn at random."""
    generator = torch.Generator().manual_seed(config.seed)
    order = cycle(torch.randperm(len(data), generator=generator).tolist())
    spent = dict.fromkeys(STAGES, 0.0)
    images, end = 0, time.perf_counter() + seconds
    while not images or time.perf_counter() < end:
        items = []
        for index in islice(order, config.data.batch_size):
            with suppress(UnreadableImage):
                items.append(_staged_item(data, index, spent))
        with _timed(spent, "collate"):
            collate([(item, []) for item in items], data.stack)
        images += len(items)
        if not images and time.perf_counter() > end:
            raise InputError(f"no image of {config.data.name!r} can be read")
    return {stage: total / images for stage, total in spent.items()}


def _staged_item(data: ImageSet, index: int, spent: dict[str, float]) -> tuple[Any, Any, int]:
    """data[index] and a seed, with the time that each stage takes."""
    with _timed(spent, "read"):
        encoded, label = data.read(index)
    with _timed(spent, "decode"):
        image = data.decode(encoded, index)
    with _timed(spent, "augment"):
        return (*data.finish(image, label, index), 0)


@contextmanager
def _timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        spent[stage] += time.perf_counter() - start


def _training_rate(config: TrainConfig, seconds: float) -> tuple[float, torch.device]:
    """Images/s of the run's own training steps on one batch of it, and where they ran."""
    data = replace(config.data, num_workers=0)
    with tempfile.TemporaryDirectory() as out:
        alone = replace(config, data=data, out=out, resume=False, devices=1, num_nodes=1)
        run = build(resolve(replace(alone, strategy="auto")))
    batch, ends = next(iter(run.train_loader)), list[float]()
    run.model.train()
    while len(ends) <= _WARM_UP + _LEAST_STEPS or ends[-1] - ends[_WARM_UP] < seconds:
        for _ in range(config.optim.accumulate_grad_batches):
            forward_backward(run, batch)
        take_step(run)
        run.state.step += 1
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        ends.append(time.perf_counter())
    measured = ends[_WARM_UP:]
    steps = (len(measured) - 1) / (measured[-1] - measured[0])
    images = len(batch.labels) * config.optim.accumulate_grad_batches
    return images * steps, run.device
