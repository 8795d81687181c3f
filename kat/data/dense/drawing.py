"""Draws boxes, masks and classes on images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks, make_grid

from kat.data.dense.coco.dataset import open_coco
from kat.files import replacing

Color = tuple[int, int, int]
_OPACITY = 0.5
_READABLE = 400
"""The least shorter side, in pixels, of an image that captions do not cover."""
_PREVIEWED = 6
"""Number of images in a preview."""


def palette(count: int) -> list[Color]:
    """Distinguishable colors: hues that are a golden section apart, in three shades."""
    turns = [(index * 0.618034) % 1.0 for index in range(count)]
    shades = [(0.75, 0.95), (0.9, 0.7), (0.5, 0.85)]
    return [
        tuple(round(255 * part) for part in colorsys.hsv_to_rgb(turn, *shades[index % 3]))  # type: ignore[misc]
        for index, turn in enumerate(turns)
    ]


def caption_factor(image: Tensor) -> int:
    """The factor to enlarge an image (3, H, W) by so that captions do not cover it."""
    return max(1, -(-_READABLE // min(image.shape[-2:])))


def draw_objects(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    masks: Tensor,
    captions: Sequence[str],
    classes: int,
    factor: int = 1,
) -> Tensor:
    """Draws boxes, masks and captions on an image, with one color per class.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4): x1, y1, x2, y2 in pixels.
        labels: (N,) class indices.
        masks: (N, H, W) bool.
        captions: N texts.
        classes: number of classes.
        factor: the factor to enlarge the image by first; see :func:`caption_factor`.

    Returns:
        (3, factor H, factor W) uint8.
    """
    image, masks = (_enlarged(pixels, factor) for pixels in (image, masks))
    if not len(boxes):
        return image
    colors = palette(classes)
    chosen = [colors[label] for label in labels.tolist()]
    drawn = draw_segmentation_masks(image, masks, alpha=_OPACITY, colors=chosen)
    width = max(1, round(min(image.shape[-2:]) / 250))
    return draw_bounding_boxes(drawn, factor * boxes, list(captions), colors=chosen, width=width)


def draw_mask(image: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Draws a class mask on an image, with one color per class.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) class indices. Other values, such as 255, leave the image as it is.
        classes: number of classes.
    """
    colors = torch.tensor([*palette(classes), (0, 0, 0)], dtype=torch.uint8)
    known = mask < classes
    layer = colors[torch.where(known, mask, classes).long()].permute(2, 0, 1)
    return torch.where(known, _blended(image, layer), image)


def draw_preview(root: Path, path: Path) -> None:
    """Draws the first training images of a COCO dataset, and below each the same with its objects.

    Args:
        root: folder of the dataset, whose images have the same size.
        path: path of the PNG file.
    """
    data = open_coco(root, "train")
    images, drawn = [], []
    for index in range(min(_PREVIEWED, len(data))):
        image, target = data[index]
        boxes, labels, masks = target["boxes"], target["labels"], target["masks"].bool()
        images.append(pil_to_tensor(image))
        captions = [""] * len(labels)
        drawn.append(draw_objects(images[-1], boxes, labels, masks, captions, len(data.classes)))
    picture = to_pil_image(make_grid([*images, *drawn], nrow=len(images), padding=0))
    with replacing(path) as partial:
        picture.save(partial)


def _enlarged(pixels: Tensor, factor: int) -> Tensor:
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _blended(image: Tensor, color: Tensor) -> Tensor:
    return (image * (1 - _OPACITY) + color * _OPACITY).to(torch.uint8)
