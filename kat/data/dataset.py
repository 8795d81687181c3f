"""A dataset: the labeled images of one split, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from kat.data.decoding import Exif, Size, UnreadableImage, decode_bytes, rgb_of
from kat.errors import UnreadableFile
from kat.files import reason_of
from kat.text import counted

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_IMBALANCED = 5
"""The largest class over the smallest, by images, beyond which class weights are named."""

Transform = Callable[..., Any]
"""Maps an image to the input of a model; for a dense dataset, an image and its target to both."""

Collate = Callable[[Sequence[Any], Sequence[Any]], tuple[Any, Any]]
"""Maps the images and labels of items to a batch."""

Encoded = bytes | Image.Image
"""The bytes of an image file, or an image if the source holds pixels."""


class Source(Protocol):
    """The storage of the images of one split: files, parts of files, rows, arrays.

    Worker processes get a copy, forked or pickled. Anything large should be an array, whose memory
    forked processes share.
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def name(self, index: int) -> str:
        """Return the path of the image, or another name that a user would look for."""
        ...

    def read(self, index: int) -> tuple[Encoded, Any]:
        """Read an image, still encoded, and its class index; for dense data, its annotation.

        May raise OSError.
        """
        ...

    def listing(self) -> Iterable[np.ndarray]:
        """Return the names of the images and their labels, as arrays that are cheap to have."""
        ...


@dataclass(frozen=True)
class SourceSubset:
    """Some of the images of another source.

    Args:
        source: the other source.
        indices: (images,) int64, indices in it.
    """

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """Return the name of the image in the source."""
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> tuple[Encoded, Any]:
        """Read the image from the source."""
        return self.source.read(int(self.indices[index]))

    def listing(self) -> Iterable[np.ndarray]:
        """Return the listing of the source, and which of its images these are."""
        return [*self.source.listing(), self.indices]


def collate_images(images: Sequence[Any], labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Stack images of one size, and class indices; both tensors are empty if there are none."""
    if not images:
        return torch.empty(0), torch.empty(0, dtype=torch.long)
    return default_collate([*images]), torch.tensor(labels)


def no_transform(image: Image.Image) -> Image.Image:
    """Return the image; a dataset's transform until it is given one."""
    return image


class ImageDataset(Dataset):
    """The labeled images of one split: item i is (transform(image), label).

    Args:
        source: stores the images.
        classes: class names, in the order of their indices.
        channels: 1 for grayscale, 3 for RGB.
        image_size: (height, width) in pixels if all images have the same size.
        mean, std: per channel, for normalization.
        ignored: files that are left out, each with the reason.
        note: lines that the user should read about the data.

    Examples:
        >>> from kat.data import DataConfig, open_split
        >>> digits = open_split(DataConfig("digits"), "train")
        >>> len(digits), digits.image_size, digits.channels, digits.classes[:3]
        (1437, (8, 8), 1, ['0', '1', '2'])
    """

    task = "classification"
    labels_are = "one class per image"
    """The labels in words; empty if an image has any number of them."""
    collate = staticmethod(collate_images)

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
        self.problems: dict[str, list[str]] = {}
        self.exif: Exif = "upright"
        self.transform: Transform = no_transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        encoded, label = self.read(index)
        return self.transformed(self.decode(encoded, label, index), label, index)

    def name(self, index: int) -> str:
        """Return the path of an image, or another name if it has none."""
        return self.source.name(index)

    def class_indices(self) -> np.ndarray:
        """Return the class index of each image, as far as the source lists them."""
        if isinstance(self.source, SourceSubset):
            *_, labels, _ = self.source.listing()
            return labels[self.source.indices]
        *_, labels = self.source.listing()
        return labels

    def class_counts(self) -> np.ndarray:
        """Return the number of images of each class, as far as the source lists their classes."""
        return np.bincount(self.class_indices(), minlength=len(self.classes))

    def imbalance(self) -> str:
        """Return a line that names the smallest class, or "" if no class is far larger."""
        if self.task == ImageDataset.task:
            counts = self.class_counts()
            small, large = min(counts[counts > 0], default=0), counts.max()
            if 0 < _IMBALANCED * small < large:
                return (
                    f"class {self.classes[counts.tolist().index(small)]!r} has"
                    f" {counted(small, 'training image')}, the largest class {large}:"
                    " loss.class_weights=balanced gives all classes the same weight"
                )
        return ""

    def evenly_spaced(self, count: int) -> ImageDataset:
        """Return a dataset of at most ``count`` images, evenly spaced in the order of this one."""
        count = min(count, len(self))
        subset = copy(self)
        indices = np.linspace(0, len(self), count, endpoint=False).astype(np.int64)
        subset.source = SourceSubset(self.source, indices)
        return subset

    def read(self, index: int) -> tuple[Encoded, Any]:
        """Read an item, without decoding its image: the first of three stages.

        Raises:
            UnreadableImage: the image cannot be read.
        """
        try:
            return self.source.read(index)
        except (UnreadableFile, OSError) as error:
            name, reason = self.name(index), reason_of(error)
            if isinstance(error, UnreadableFile) and name == str(error.args[0]):
                reason = error.reason
            raise UnreadableImage(name, reason) from error

    def decode(self, encoded: Encoded, label: Any, index: int) -> Image.Image:
        """Decode the image of an item, as grayscale or RGB according to ``channels``.

        It is turned upright, unless ``exif`` is ``"ignore"`` or its annotations are for the stored
        pixels.

        Raises:
            UnreadableImage: the bytes are damaged or not an image.
        """
        if isinstance(encoded, bytes):
            annotated = partial(self.annotated_size, label)
            return decode_bytes(encoded, self.name(index), self.exif, annotated)
        return encoded if self.channels == 1 else rgb_of(encoded, self.name(index), self.exif)

    def annotated_size(self, label: Any) -> Size | None:
        """Return the size that the annotations of an image are for; None if they do not say."""
        return None

    def transformed(self, image: Image.Image, label: Any, index: int) -> tuple[Any, Any]:
        """Transform the image of an item: the last stage."""
        return self.transform(image), int(label)
