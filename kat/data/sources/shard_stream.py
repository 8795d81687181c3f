"""WebDataset shards that are read in order, from anywhere that the package webdataset reads."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from kat.data.config import DataConfig
from kat.data.decoding import UnreadableImage
from kat.data.loading.stream import ImageStream, Part, StreamItem
from kat.data.naming import class_names
from kat.data.sources.huggingface import opened_elsewhere
from kat.data.sources.webdataset import IMAGES, parse_label
from kat.errors import InputError

_BUFFER = 1000
"""Number of encoded images in the shuffle buffer of a worker; about 100 MB for ImageNet."""


def open_shard_stream(config: DataConfig, split: str, seed: int) -> ImageStream:
    """Open the shards of a split that timm's ``ReaderWds`` finds, by ``_info.json`` beside them.

    Raises:
        InputError: timm does not find the split, or the number of images or classes is unknown.
    """
    from timm.data.readers import create_reader

    training = split == "train"
    with opened_elsewhere(config):
        wanted = config.train_split if training else config.val_split
        reader = create_reader(config.name, config.root, wanted)
    classes = class_names([], config.num_classes, -1, repr(config.name))
    info = reader.split_info
    if not info.num_samples:
        raise InputError(
            f"the number of images in dataset {config.name!r} is unknown: add num_samples to"
            " _info.json, or |NUMBER to the split"
        )
    urls = [os.path.join(reader.root, name) for name in info.filenames]
    label_key = config.label_key or info.alt_label or None
    read = ShardStream(urls, label_key, training, seed)
    batch_size = config.batch_size if training else None
    return ImageStream(read, info.num_samples, classes, batch_size)


@dataclass(frozen=True)
class ShardStream:
    """The samples of shards, in an order that is a function of (seed, epoch, part).

    Each of n parts has its own shards; if there are fewer shards than parts, it has every n-th
    sample of all shards. For training, shards are permuted and samples are drawn from a buffer.

    Args:
        urls: paths or URLs of the shards.
        label_key: field of ``.json`` files with the label; None if ``.cls`` files hold it.
        training: whether to shuffle.
        seed: seed of the order.
    """

    urls: list[str]
    label_key: str | None
    training: bool
    seed: int

    def __call__(self, epoch: int, part: Part) -> Iterator[StreamItem | UnreadableImage]:
        """Yield the items of a part, with errors in the place of those that cannot be read."""
        urls = list(self.urls)
        if self.training:
            random.Random(f"{self.seed} {epoch}").shuffle(urls)
        index, parts = part
        # In evaluation, parts may differ by one sample at most, like the lengths of the stream.
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
        encoded = next((sample[extension] for extension in IMAGES if extension in sample), None)
        text = sample.get("json" if self.label_key else "cls")
        label = -1 if text is None else parse_label(text, self.label_key, name)
        if encoded is None or label < 0:
            return UnreadableImage(name, "it has no image or no label")
        return name, encoded, label


def _drawn(
    items: Iterable[StreamItem | UnreadableImage], rng: random.Random
) -> Iterator[StreamItem | UnreadableImage]:
    """Yield the items, each drawn from a buffer of the next ones."""
    buffer: list[StreamItem | UnreadableImage] = []
    for item in items:
        buffer.append(item)
        if len(buffer) > _BUFFER:
            chosen = rng.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer
