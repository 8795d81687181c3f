"""What every data set is to the rest of the package: labelled images of one split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from kat.data.decoding import UnreadableImage, as_rgb, decode_bytes
from kat.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Transform = Callable[..., Any]
"""Of an image to what a model takes; of a dense set, of an image and its target to both."""

Stack = Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]]
"""Of the images and labels of items to those of a batch."""

Encoded = bytes | Image.Image
"""The bytes of an image file, or an image where the source holds pixels."""


class Source(Protocol):
    """Where the images of one split are: files, pieces of files, rows, arrays.

    Worker processes get a copy, forked or pickled; what is large in it should be arrays.
    """

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def name(self, index: int) -> str:
        """What a user would look for: a path where there is one."""
        ...

    def read(self, index: int) -> tuple[Encoded, Any]:
        """An image, still encoded, and the index of its class; of a dense set what is annotated.

        May raise OSError.
        """
        ...


class SourcePart:
    """Some of the images of another source.

    Args:
        source: has them all.
        chosen: (images,) int64, where they are in it.
    """

    def __init__(self, source: Source, chosen: np.ndarray) -> None:
        self.source = source
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """Its name in the source."""
        return self.source.name(int(self.chosen[index]))

    def read(self, index: int) -> tuple[Encoded, Any]:
        """What the source has."""
        return self.source.read(int(self.chosen[index]))


def _stacked(images: Sequence[Any], labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Images of one size and class indices as two tensors; both are empty where there are none."""
    if not images:
        return torch.empty(0), torch.empty(0, dtype=torch.long)
    return default_collate([*images]), torch.tensor(labels)


class ImageSet(Dataset):
    """Labelled images of one split: item i is (transform(image), label).

    Args:
        source: holds the images.
        classes: the class names, in order of their index.
        channels: 1 for grey, 3 for RGB.
        image_size: (height, width) in pixels if all images have one size.
        mean, std: of each channel, for normalisation.
        ignored: what was passed over, e.g. files that are not named as images, each with the
            reason.
        note: what to tell the user about the data, in a sentence.
    """

    task = "classification"

    def __init__(
        self,
        source: Source,
        classes: Sequence[str],
        *,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        ignored: Mapping[str, str] | None = None,
        note: str = "",
    ) -> None:
        self.source = source
        self.classes = list(classes)
        self.channels = channels
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.ignored = dict(ignored or {})
        self.note = note
        self.transform: Transform = _untransformed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        encoded, label = self.read(index)
        return self.finish(self.decode(encoded, index), label, index)

    @staticmethod
    def stack(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """The images and labels of a batch, of those of its items."""
        return _stacked(images, labels)

    def name(self, index: int) -> str:
        """The path of an image, or what else names it."""
        return self.source.name(index)

    def spread(self, count: int) -> ImageSet:
        """``count`` images of this set, evenly spread over its order, or all where it has fewer."""
        count = min(count, len(self))
        part = copy(self)
        chosen = np.linspace(0, len(self), count, endpoint=False).astype(np.int64)
        part.source = SourcePart(self.source, chosen)
        return part

    def read(self, index: int) -> tuple[Encoded, Any]:
        """The first stage of an item: its bytes, or its pixels where the source holds them.

        Raises:
            UnreadableImage: they cannot be had.
        """
        try:
            return self.source.read(index)
        except OSError as error:
            raise UnreadableImage(self.name(index), str(error)) from error

    def decode(self, encoded: Encoded, index: int) -> Image.Image:
        """The second stage of an item: its image, grey or RGB as ``channels`` says.

        Raises:
            UnreadableImage: the bytes are damaged, or not an image.
        """
        if isinstance(encoded, bytes):
            return decode_bytes(encoded, self.name(index))
        return encoded if self.channels == 1 else as_rgb(encoded)

    def finish(self, image: Image.Image, label: Any, index: int) -> tuple[Any, Any]:
        """The last stage of an item: its transformed image and its label."""
        return self.transform(image), int(label)


def _untransformed(image: Image.Image) -> Image.Image:
    return image


Part = tuple[int, int]
"""(i, n): the i-th of n equal parts of a stream."""

StreamItem = tuple[str, Encoded, int]
"""The name of an image, the image, still encoded, and the index of its class."""


class ImageStream(IterableDataset):
    """Labelled images of one split that can only be read in order, with the facts of an ImageSet.

    Yields (transform(image), label), and an :class:`UnreadableImage` in the place of an image that
    cannot be decoded. The order is a function of the seed that ``read`` was made with, the epoch,
    the process and the worker.

    For training every process and worker gets equally many whole batches, its part of the stream
    over and over if that is short. For evaluation each image comes once, all of a process by its
    first worker, since workers' partial batches would go beyond the length that is announced.

    Args:
        read: (epoch, part) to the images of that part of the stream, with errors in the place of
            what cannot be had.
        length: images in the whole stream.
        classes: the class names, in order of their index.
        batch_size: images a batch; None for evaluation.
    """

    task = "classification"

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
        self.transform: Transform = _untransformed
        # Shared memory: workers that live on into the next epoch must see it change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @staticmethod
    def stack(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """The images and labels of a batch, of those of its items."""
        return _stacked(images, labels)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order, also of workers that run already; called before each epoch."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        _, processes = process_of()
        if self.batch_size is None:
            return -(-self.length // processes)
        return self.length // processes // self.batch_size * self.batch_size

    def __iter__(self) -> Iterator[tuple[Any, int] | UnreadableImage]:
        process, processes = process_of()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch = int(self._epoch[0])
        if self.batch_size is None:
            whole = self.read(epoch, (process, processes)) if worker == 0 else ()
            yield from map(self._item, whole)
            return
        batches = len(range(worker, len(self) // self.batch_size, workers))
        part = process * workers + worker, processes * workers
        for item in self._endless(epoch, part, batches * self.batch_size):
            yield self._item(item)

    def _endless(
        self, epoch: int, part: Part, count: int
    ) -> Iterator[StreamItem | UnreadableImage]:
        """So many items of a part, from its start again where it ends."""
        given = 0
        while given < count:
            before = given
            for item in self.read(epoch, part):
                yield item
                given += 1
                if given == count:
                    return
            if given == before:
                raise InputError(
                    f"part {part[0] + 1} of {part[1]} of the stream is empty: use fewer workers"
                )

    def _item(self, item: StreamItem | UnreadableImage) -> tuple[Any, int] | UnreadableImage:
        if isinstance(item, UnreadableImage):
            return item
        name, encoded, label = item
        try:
            image = decode_bytes(encoded, name) if isinstance(encoded, bytes) else as_rgb(encoded)
        except UnreadableImage as error:
            return error
        return self.transform(image), label


def process_of() -> Part:
    """The number of this process, and how many train together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
