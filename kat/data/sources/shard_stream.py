"""WebDataset shards that are read from end to end, from wherever the package webdataset can."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from kat.data.config import DataConfig
from kat.data.dataset import ImageStream, Part, StreamItem
from kat.data.decoding import UnreadableImage
from kat.data.sources.webdataset import IMAGES, parse_label
from kat.errors import InputError

_BUFFER = 1000
"""Encoded images that a worker holds to draw from; in ImageNet's size about 100 MB."""


def open_stream(
    reader: Any, classes: list[str], config: DataConfig, training: bool, seed: int
) -> ImageStream:
    """The shards of a split that timm's ``ReaderWds`` has found.

    Raises:
        InputError: nothing says how many images there are.
    """
    info = reader.split_info
    if not info.num_samples:
        raise InputError(
            f"data set {config.name!r} does not say how many images it has: add num_samples to"
            " _info.json, or |NUMBER to the split"
        )
    urls = [os.path.join(reader.root, name) for name in info.filenames]
    read = ShardStream(urls, config.label_key or info.alt_label or None, training, seed)
    batch_size = config.batch_size if training else None
    return ImageStream(read, info.num_samples, classes, batch_size)


class ShardStream:
    """The samples of shards, in an order that is a function of seed, epoch and part.

    A part has shards of its own, or where these are fewer than the parts, each n-th sample of all.
    For training the shards are permuted, and each sample is drawn from a buffer.

    Args:
        urls: the shards, as the package webdataset opens them.
        label_key: the field of ``.json`` files that holds the label; None: ``.cls`` files do.
        training: whether to shuffle.
        seed: of the order.
    """

    def __init__(self, urls: list[str], label_key: str | None, training: bool, seed: int) -> None:
        self.urls = urls
        self.label_key = label_key
        self.training = training
        self.seed = seed

    def __call__(self, epoch: int, part: Part) -> Iterator[StreamItem | UnreadableImage]:
        """The items of a part; what cannot be had is named in its place."""
        urls = list(self.urls)
        if self.training:
            random.Random(f"{self.seed} {epoch}").shuffle(urls)
        index, parts = part
        # To evaluate, parts must differ by one sample at most, as their announced lengths do.
        own = self.training and parts <= len(urls)
        items = self._items(urls[index::parts] if own else urls)
        if not own:
            items = islice(items, index, None, parts)
        if self.training:
            return _drawn(items, random.Random(f"{self.seed} {epoch} {index} {parts}"))
        return items

    def _items(self, urls: list[str]) -> Iterator[StreamItem | UnreadableImage]:
        import webdataset

        for url in urls:
            damage: list[Exception] = []

            def keep(error: Exception, damage: list[Exception] = damage) -> bool:
                damage.append(error)
                return True

            open_shard = webdataset.tarfile_to_samples(handler=keep)
            yield from (self._item(url, sample) for sample in open_shard([{"url": url}]))
            if damage:
                yield UnreadableImage(url, f"the shard is damaged: {damage[0]}")

    def _item(self, url: str, sample: dict[str, Any]) -> StreamItem | UnreadableImage:
        name = f"{url}/{sample['__key__']}"
        encoded = next((sample[ending] for ending in IMAGES if ending in sample), None)
        text = sample.get("json" if self.label_key else "cls")
        label = None if text is None else parse_label(text, self.label_key, name)
        if encoded is None or label is None:
            return UnreadableImage(name, "it has no image or no label")
        return name, encoded, label


def _drawn(
    items: Iterable[StreamItem | UnreadableImage], rng: random.Random
) -> Iterator[StreamItem | UnreadableImage]:
    """The items, each drawn from a buffer of the next ones."""
    buffer: list[StreamItem | UnreadableImage] = []
    for item in items:
        buffer.append(item)
        if len(buffer) > _BUFFER:
            chosen = rng.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer
