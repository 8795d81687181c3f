"""Draws boxes, masks and classes on images."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

Color = tuple[int, int, int]
Plate = tuple[float, float, float, float]
"""Left, top, right and bottom of a caption's plate."""
_OPACITY = 0.5
_READABLE = 400
"""The least shorter side, in pixels, of an image that captions do not cover."""
_FONT, _MARGIN = 22, 3
"""The shorter side of an image over the size of its font, and the margin of plates in pixels."""


def palette(count: int) -> list[Color]:
    """Distinguishable colors: hues that are a golden section apart, in three shades."""
    shades = [(0.75, 0.95), (0.9, 0.7), (0.5, 0.85)]
    colors = []
    for index in range(count):
        saturation, value = shades[index % 3]
        parts = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, saturation, value)
        red, green, blue = (round(255 * part) for part in parts)
        colors.append((red, green, blue))
    return colors


def caption_factor(image: Tensor) -> int:
    """Return the factor to enlarge an image (3, H, W) by so that captions do not cover it."""
    return max(1, -(-_READABLE // min(image.shape[-2:])))


def draw_objects(
    image: Tensor,
    objects: Mapping[str, Tensor],
    captions: Sequence[str],
    factor: int = 1,
) -> Tensor:
    """Draw boxes, masks and captions on an image, with one color per object.

    Args:
        image: (3, H, W) uint8.
        objects: ``boxes`` (N, 4): x1, y1, x2, y2 in pixels, and perhaps ``masks`` (N, H, W) bool.
            The first ones are drawn over the others.
        captions: N texts.
        factor: the factor to enlarge the image by first; see :func:`caption_factor`.

    Returns:
        (3, factor H, factor W) uint8.
    """
    image = _enlarged(image, factor)
    if not len(objects["boxes"]):
        return image
    chosen = palette(len(captions))
    if "masks" in objects:
        masks = _enlarged(objects["masks"], factor)
        image = draw_segmentation_masks(image, masks, alpha=_OPACITY, colors=chosen)
    boxes = factor * objects["boxes"]
    width = max(2, round(min(image.shape[-2:]) / 200))
    drawn = draw_bounding_boxes(image, boxes.flip(0), colors=chosen[::-1], width=width)
    return _with_captions(drawn, boxes, captions, chosen)


def _with_captions(
    image: Tensor, boxes: Tensor, captions: Sequence[str], colors: Sequence[Color]
) -> Tensor:
    """Write a text on a plate of a color at each box, within the image, below earlier plates."""
    picture = to_pil_image(image)
    draw, font = ImageDraw.Draw(picture), _font(min(picture.size) // _FONT)
    plates: list[Plate] = []
    for (left, top, _, _), text, color in zip(boxes.tolist(), captions, colors, strict=True):
        if not text:
            continue
        _, _, w, h = (part + _MARGIN for part in draw.textbbox((0, 0), text, font))
        x, y = max(0, min(round(left), picture.width - w)), max(0, round(top) - h)
        plate = (x, y, x + w, y + h)
        while under := [each for each in plates if _overlap(each, plate)]:
            y = max(bottom for *_, bottom in under) + 1
            plate = (x, y, x + w, y + h)
        plates.append(plate)
        draw.rectangle(plate, color)
        draw.text((x + _MARGIN, y), text, _readable_on(color), font)
    return pil_to_tensor(picture)


def _overlap(one: Plate, other: Plate) -> bool:
    beside = one[2] <= other[0] or other[2] <= one[0]
    return not beside and one[1] < other[3] and other[1] < one[3]


def draw_classes(image: Tensor, mask: Tensor, classes: Sequence[str], factor: int = 1) -> Tensor:
    """Draw a class mask on an image, and below it a legend of the classes that occur.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) class indices. Other values, such as 255, and the class ``background`` leave
            the image as it is.
        classes: names of the classes.
        factor: the factor to enlarge the image by first; see :func:`caption_factor`.

    Returns:
        (3, factor H and the height of the legend, factor W) uint8.
    """
    named = [index for index, name in enumerate(classes) if name != "background"]
    known = [value for value in mask.unique().tolist() if value in named]
    painted = torch.where(torch.isin(mask, torch.tensor(known)), mask, len(classes))
    drawn = _enlarged(draw_mask(image, painted, len(classes)), factor)
    colors = palette(len(classes))
    names = [(classes[value], colors[value]) for value in known]
    _, height, width = drawn.shape
    return torch.cat([drawn, _legend(names, height, width)], dim=1)


def draw_mask(image: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Draw a class mask on an image, with one color per class.

    Args:
        image: (3, H, W) uint8.
        mask: (H, W) class indices. Other values, such as 255, leave the image as it is.
        classes: number of classes.
    """
    colors = torch.tensor([*palette(classes), (0, 0, 0)], dtype=torch.uint8)
    known = mask < classes
    layer = colors[torch.where(known, mask, classes).long()].permute(2, 0, 1)
    return torch.where(known, (image * (1 - _OPACITY) + layer * _OPACITY).to(torch.uint8), image)


def palette_image(mask: Tensor, classes: int) -> Image.Image:
    """Return a mask (H, W) as an image of class indices with a palette of the classes' colors."""
    picture = Image.fromarray(mask.to(torch.uint8).numpy())
    picture.putpalette(list(chain.from_iterable(palette(classes))))
    return picture


def _legend(names: Sequence[tuple[str, Color]], height: int, width: int) -> Tensor:
    """Names on plates of their colors for an image, in rows: (3, rows' height, width)."""
    font = _font(min(height, width) // _FONT)
    row = sum(font.getmetrics()) + 3 * _MARGIN
    picture = Image.new("RGB", (width, row * (1 + len(names))), "white")
    draw, x, y = ImageDraw.Draw(picture), _MARGIN, _MARGIN
    for name, color in names:
        length = round(font.getlength(name)) + 2 * _MARGIN
        if x > _MARGIN and x + length > width:
            x, y = _MARGIN, y + row
        draw.rectangle((x, y, x + length, y + row - 2 * _MARGIN), color)
        draw.text((x + _MARGIN, y), name, _readable_on(color), font)
        x += length + _MARGIN
    return pil_to_tensor(picture.crop((0, 0, width, y + row - _MARGIN if names else 0)))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has more letters than Pillow's own font."""
    import matplotlib as mpl

    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _readable_on(color: Color) -> str:
    """Black or white, whichever has more contrast to a color (WCAG 2's relative luminance)."""
    red, green, blue = ((part / 255) ** 2.2 for part in color)
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "white"


def _enlarged(pixels: Tensor, factor: int) -> Tensor:
    return pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
