"""Measures how fast images are loaded: by a loader, and in each stage of loading."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle, islice, repeat
from typing import Any

import torch

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import UnreadableImage
from kat.data.loading.loader import make_batch, make_loader
from kat.data.stream import ImageStream
from kat.errors import InputError

Clock = Callable[[], float]
"""Returns seconds since some moment."""

STAGES = ("read", "decode", "augment", "collate")
"""The stages of loading, in order."""


def loading_rate(
    data: ImageDataset | ImageStream,
    config: DataConfig,
    seed: int,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> tuple[float, int]:
    """Measures a training loader, after its first batches.

    Args:
        data: the training split, with its transform.
        config: the settings of the loader.
        seed: seed of the order and the augmentation.
        seconds: duration of the measurement.
        clock: measures time.

    Returns:
        Images per second, and the number of unreadable images.

    Raises:
        InputError: there is no full batch, or no image can be read.
    """
    loader = make_loader(data, config, training=True, seed=seed)
    if len(loader) == 0:
        raise InputError(f"{config.name!r} has no full batch of {config.batch_size} images")
    batches = (batch for epoch in repeat(loader) for batch in epoch)
    for _ in range(1 + config.num_workers):  # until each worker has started
        next(batches)
    images = unreadable = 0
    elapsed, start = 0.0, clock()
    while elapsed < seconds:
        batch = next(batches)
        images += len(batch.labels)
        unreadable += len(batch.unreadable)
        elapsed = clock() - start
    batches.close()
    loader.close()
    if not images:
        raise InputError(f"no image of {config.name!r} can be read, first {batch.unreadable[0]}")
    return images / elapsed, unreadable


def stage_times(
    data: ImageDataset,
    config: DataConfig,
    seed: int,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Measures the stages of loading in this process, over batches of random images.

    Args:
        data: the training split, with its transform.
        config: the settings of the loader.
        seed: seed of the choice of images.
        seconds: duration of the measurement.
        clock: measures time.

    Returns:
        Seconds per image in each of :data:`STAGES`.

    Raises:
        InputError: no image can be read.
    """
    generator = torch.Generator().manual_seed(seed)
    order = cycle(torch.randperm(len(data), generator=generator).tolist())
    spent = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = clock()
        try:
            yield
        finally:
            spent[stage] += clock() - start

    def load(index: int) -> tuple[Any, Any, int]:
        with timed("read"):
            encoded, label = data.read(index)
        with timed("decode"):
            image = data.decode(encoded, label, index)
        with timed("augment"):
            return (*data.transformed(image, label, index), 0)

    images, end = 0, clock() + seconds
    while not images or clock() < end:
        items = []
        for index in islice(order, config.batch_size):
            with suppress(UnreadableImage):
                items.append(load(index))
        with timed("collate"):
            make_batch([(item, []) for item in items], data.collate)
        images += len(items)
        if not images and clock() > end:
            raise InputError(f"no image of {config.name!r} can be read")
    return {stage: total / images for stage, total in spent.items()}
