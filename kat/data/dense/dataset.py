"""Images with a target, such as boxes or a mask, in the place of a class index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from kat.data.dataset import ImageDataset, Source


def no_transform(image: Image.Image, target: Any) -> tuple[Image.Image, Any]:
    """Return image and target; a dataset's transform until it is given one."""
    return image, target


class DenseDataset(ImageDataset):
    """The images of one split with targets: item i is transform(image, target).

    A subclass defines the target. Batches are lists, because images differ in size.
    """

    def __init__(self, source: Source, classes: Sequence[str], **options: Any) -> None:
        super().__init__(source, classes, **options)
        self.transform = no_transform

    @staticmethod
    def collate(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """Return the images and targets of a batch as lists."""
        return list(images), list(labels)

    def target(self, image: Image.Image, annotation: Any, index: int) -> Any:
        """Decode the target of an image.

        Args:
            image: RGB.
            annotation: what the source has read, still encoded.
            index: the index of the image.

        Raises:
            UnreadableImage: the annotation is for another image.
        """

    def transformed(self, image: Image.Image, label: Any, index: int) -> tuple[Any, Any]:
        """Decode the target of an image and transform both."""
        return self.transform(image, self.target(image, label, index))
