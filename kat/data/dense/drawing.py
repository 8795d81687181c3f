"""Images with what a model has found drawn on them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

Colour = tuple[int, int, int]
_OPACITY = 0.5
_READABLE = 400
"""Pixels of the shorter side from which on captions do not cover an image."""


def colours(count: int) -> list[Colour]:
    """So many colours that can be told apart: hues a golden section apart, in three shades."""
    turns = [(index * 0.618034) % 1.0 for index in range(count)]
    shades = [(0.75, 0.95), (0.9, 0.7), (0.5, 0.85)]
    return [
        tuple(round(255 * part) for part in colorsys.hsv_to_rgb(turn, *shades[index % 3]))  # type: ignore[misc]
        for index, turn in enumerate(turns)
    ]


def caption_factor(image: Tensor) -> int:
    """What an image (3, H, W) must be enlarged by for captions to leave something of it."""
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
    """Boxes, masks and captions on an image, a colour each class.

    Args:
        image: (3, H, W) uint8.
        boxes: (N, 4): x1, y1, x2, y2 in pixels.
        labels: (N,), the index of each one's class.
        masks: (N, H, W) bool.
        captions: N texts.
        classes: how many there are.
        factor: what the image is enlarged by first; see :func:`caption_factor`.
    """
    image, masks = (_enlarged(pixels, factor) for pixels in (image, masks))
    if not len(boxes):
        return image
    palette = colours(classes)
    chosen = [palette[label] for label in labels.tolist()]
    drawn = draw_segmentation_masks(image, masks, alpha=_OPACITY, colors=chosen)
    width = max(1, round(min(image.shape[-2:]) / 250))
    return draw_bounding_boxes(drawn, factor * boxes, list(captions), colors=chosen, width=width)


def draw_mask(image: Tensor, mask: Tensor, classes: int) -> Tensor:
    """A class for each pixel over an image, a colour each class.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W), indices of classes; others, such as 255, leave the image as it is.
        classes: how many there are.
    """
    palette = torch.tensor([*colours(classes), (0, 0, 0)], dtype=torch.uint8)
    known = mask < classes
    laid = palette[torch.where(known, mask, classes).long()].permute(2, 0, 1)
    return torch.where(known, _mixed(image, laid), image)


def _enlarged(pixels: Tensor, factor: int) -> Tensor:
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def _mixed(image: Tensor, colour: Tensor) -> Tensor:
    return (image * (1 - _OPACITY) + colour * _OPACITY).to(torch.uint8)
