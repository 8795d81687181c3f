"""Images with a target each, such as boxes or a mask, in the place of a class index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image

from kat.data.dataset import ImageSet


class DenseSet(ImageSet, ABC):
    """Images of one split with targets: item i is transform(image, target).

    A subclass says what the target is. Batches are lists, as images differ in size.
    """

    @staticmethod
    def stack(images: Sequence[Any], labels: Sequence[Any]) -> tuple[Any, Any]:
        """The images and targets of a batch, as they are."""
        return list(images), list(labels)

    @abstractmethod
    def target(self, image: Image.Image, annotation: Any, index: int) -> Any:
        """The target that the transform takes.

        Args:
            image: RGB.
            annotation: what the source has of it, still encoded.
            index: of the image.

        Raises:
            UnreadableImage: image and annotation do not fit together.
        """

    def finish(self, image: Image.Image, label: Any, index: int) -> tuple[Any, Any]:
        """The last stage of an item: its target is decoded, and both are transformed."""
        image, target = self.transform(image, self.target(image, label, index))
        return image, target


def untransformed(image: Image.Image, target: Any) -> tuple[Image.Image, Any]:
    """The transform of a set that has been given none."""
    return image, target
