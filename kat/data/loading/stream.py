"""A dataset that can only be read in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from kat.data.dataset import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageDataset,
    Transform,
    collate_images,
    no_transform,
)
from kat.data.decoding import Exif, UnreadableImage, decode_bytes
from kat.data.loading.sampler import rank_and_world_size
from kat.errors import InputError

Part = tuple[int, int]
"""(i, n): the i-th of n equal parts of a stream."""

StreamItem = tuple[str, bytes, int]
"""The name of an image, the bytes of its file, and its class index."""


class ImageStream(IterableDataset):
    """The labeled images of one split in a fixed order, with the attributes of an ImageDataset.

    Yields (transform(image), label), or an :class:`UnreadableImage` in the place of an image that
    cannot be decoded. The order is a function of the seed that ``read`` was made with, the epoch,
    the rank and the worker.

    In training, every worker of every process yields the same number of full batches, and repeats
    its part of the stream if that is too short. In evaluation, each image comes once, and the first
    worker yields all images of its process: partial batches of several workers would exceed the
    length of the stream.

    Args:
        read: maps (epoch, part) to the images in that part of the stream, with errors in the place
            of those that cannot be read.
        length: number of images in the whole stream.
        classes: class names, in the order of their indices.
        batch_size: number of images in a batch; None for evaluation.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data import ImageStream
        >>> files = Path("photos/val/cat").iterdir()
        >>> images = [(path.name, path.read_bytes(), 0) for path in files]
        >>> stream = ImageStream(lambda epoch, part: images, len(images), ["cat"], batch_size=None)
        >>> [(image.size, label) for image, label in stream]
        [((48, 40), 0)]
    """

    task = ImageDataset.task
    collate = staticmethod(collate_images)

    def __init__(
        self,
        read: Callable[[int, Part], Iterable[StreamItem | UnreadableImage]],
        length: int,
        classes: Sequence[str],
        batch_size: int | None,
    ) -> None:
        self.read = read
        self.length = length
        self.classes = list(classes)
        self.batch_size = batch_size
        self.channels = 3
        self.image_size = None
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.ignored: dict[str, str] = {}
        self.note = ""
        self.exif: Exif = "upright"
        self.transform: Transform = no_transform
        self._epoch = 0
        self._place: tuple[int, int] | None = None

    @property
    def place(self) -> tuple[int, int]:
        """The rank of the process that reads the stream, and how many processes there are."""
        return self._place or rank_and_world_size()

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration.

        Workers take the place of this process: they may not be in its group.
        """
        self._epoch = epoch
        self._place = rank_and_world_size()

    def __len__(self) -> int:
        """Return the number of images of this process."""
        _, world_size = self.place
        if self.batch_size is None:
            return -(-self.length // world_size)
        return self.length // world_size // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[tuple[Any, int] | UnreadableImage]:
        rank, world_size = self.place
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if self.batch_size is None:
            items = self.read(self._epoch, (rank, world_size)) if worker == 0 else ()
            yield from map(self._transformed, items)
            return
        batches = len(range(worker, len(self) // self.batch_size, workers))
        part = rank * workers + worker, world_size * workers
        for item in self._repeated(part, batches * self.batch_size):
            yield self._transformed(item)

    def _repeated(self, part: Part, count: int) -> Iterator[StreamItem | UnreadableImage]:
        """Yield ``count`` items of a part, which starts again after its end."""
        yielded = 0
        while yielded < count:
            before = yielded
            for item in self.read(self._epoch, part):
                yield item
                yielded += 1
                if yielded == count:
                    return
            if yielded == before:
                raise InputError(
                    f"part {part[0] + 1} of {part[1]} of the stream is empty: use fewer workers"
                )

    def _transformed(self, item: StreamItem | UnreadableImage) -> tuple[Any, int] | UnreadableImage:
        if isinstance(item, UnreadableImage):
            return item
        name, encoded, label = item
        if not 0 <= label < len(self.classes):
            of = f"the {len(self.classes)} classes are 0 to {len(self.classes) - 1}"
            raise InputError(f"{name} has the label {label}, but {of}")
        try:
            return self.transform(decode_bytes(encoded, name, self.exif)), label
        except UnreadableImage as error:
            return error
