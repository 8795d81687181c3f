"""Images into a detector, as a batch of one size, and its detections back into the images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from kat.errors import InputError
from kat.models.dense.image_sizes import resized

Target = dict[str, Tensor]
"""The ground truth of an image: ``boxes`` (N, 4), ``labels`` (N,) and, for a model with masks,
``masks`` (N, H, W)."""

Detections = dict[str, Tensor]
"""A ``Target`` with ``scores`` (N,)."""

MASK_THRESHOLD = 0.5
"""The least probability at which a pixel belongs to an object."""


def check_targets(targets: Sequence[Target], classes: int) -> None:
    """Checks the ground truth of a batch, which torchvision would turn into a loss of inf or NaN.

    Raises:
        InputError: boxes without a width or height; labels of no class.
    """
    for index, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        sized = (boxes[:, 2:] > boxes[:, :2]).all()
        if not sized or ((labels < 0) | (labels >= classes)).any():
            raise InputError(
                f"target {index} has boxes without a width or height (x1, y1, x2, y2), or labels"
                f" that are none of the {classes} classes"
            )


class EvaluationSize(GeneralizedRCNNTransform):
    """Batches normalized images with padding, and resizes them in evaluation only.

    Args:
        min_size, max_size: bounds of the sides, see :class:`Detector`.
        channels: the number of channels of the images.
        step: sides of the batch are multiples of this.

    Examples:
        >>> import torch
        >>> from kat.models.dense import EvaluationSize
        >>> resize = EvaluationSize(min_size=64, max_size=128, channels=3, step=32).eval()
        >>> images, _ = resize([torch.randn(3, 100, 150)])
        >>> images.image_sizes, images.tensors.shape
        ([(64, 96)], torch.Size([1, 3, 64, 96]))
    """

    def __init__(self, min_size: int, max_size: int, channels: int, step: int) -> None:
        no_change = [0.0] * channels, [1.0] * channels
        super().__init__(min_size, max_size, *no_change, size_divisible=step)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """The resized image, and the target unchanged: there is none in evaluation."""
        if self.training:
            return image, target
        sides = torch.stack([torch.as_tensor(side) for side in image.shape[-2:]]).double()
        scale = torch.minimum(self.min_size[0] / sides.min(), self.max_size / sides.max())
        height, width = (sides * scale).round().clamp(min=1).long()
        return resized(image[None], (height, width), "bilinear")[0], target

    def postprocess(
        self,
        result: list[Detections],
        image_shapes: Sequence[tuple[int, int]],
        original_image_sizes: Sequence[tuple[int, ...]],
    ) -> list[Detections]:
        """The detections in pixels of the original images, with masks (N, H, W) bool."""
        triples = zip(result, image_shapes, original_image_sizes, strict=True)
        return [
            placed_in_image({**one, "boxes": resize_boxes(one["boxes"], seen, size)}, size)
            for one, seen, size in triples
        ]


def placed_in_image(found: Detections, size: tuple[int, ...]) -> Detections:
    """Detections with masks (N, H, W) bool of an image, from probabilities within the boxes.

    Examples:
        >>> import torch
        >>> from kat.models.dense import placed_in_image
        >>> boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        >>> found = {"boxes": boxes, "masks": torch.ones(1, 1, 28, 28)}
        >>> placed_in_image(found, (8, 10))["masks"].shape
        torch.Size([1, 8, 10])
    """
    if "masks" not in found:
        return found
    return {**found, "masks": _paste(found["masks"], found["boxes"], size)}


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Masks (N, H, W) bool of an image, from probabilities (N, 1, h, w) within the boxes.

    One by one: the probabilities of 100 objects for all pixels of a large image need gigabytes.
    """
    pasted = torch.empty(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for whole, mask, box in zip(pasted, masks, boxes, strict=True):
        torch.ge(paste_masks_in_image(mask[None], box[None], size)[0, 0], MASK_THRESHOLD, out=whole)
    return pasted
