"""What is done to images together with their boxes and masks, by torchvision's transforms.

What is random is drawn from PyTorch's generator alone, which the loader seeds for each item. Images
come out as bytes, (C, H, W), in grey or RGB as the model takes them: normalisation is
:class:`kat.data.DevicePreparation`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Mask

from kat.data.decoding import in_channels
from kat.data.dense.coco.dataset import Target
from kat.data.dense.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.semantic.dataset import IGNORE

_CROP_TRIES = 10
_LONGEST = 4
"""The longest that an image may be, in shorter sides: ADE20K's usual 2048 for 512."""


class DetectionTraining:
    """Large-scale jitter to a square, a flip, and boxes of what is left of each object.

    The scale s is drawn evenly; the image is resized by r = s min(size / height, size / width); of
    what is larger than the square a part is cut out at random, and what is smaller is padded on the
    right and below. Crowds are left out, and objects of which less than ``min_side`` is left.

    Args:
        size: side of the square in pixels.
        config: ranges and probabilities.
        mean: of each channel, after scaling pixels to [0, 1]: the colour of the padding.
    """

    def __init__(self, size: int, config: DetectionAugmentConfig, mean: Sequence[float]) -> None:
        self.size = size
        self.config = config
        self.fill = _colour(mean)
        self.channels = len(mean)

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """The square, (C, size, size) uint8, and its objects."""
        window = self._window(image.height, image.width)
        flip = _happens(self.config.hflip)
        pixels = _placed(_pixels(image, self.channels), window, self.size, self.fill, flip)
        objects = _chosen(target, target["iscrowd"] == 0)
        objects["masks"] = _placed(Mask(objects["masks"]), window, self.size, 0, flip)
        objects["area"] = objects["masks"].sum((1, 2), dtype=torch.float32)
        objects = _chosen(objects, objects["area"] > 0)
        objects["boxes"] = _boxes(objects["masks"])
        sides = objects["boxes"][:, 2:] - objects["boxes"][:, :2]
        return pixels, _chosen(objects, (sides >= self.config.min_side).all(1))

    def _window(self, height: int, width: int) -> Window:
        low, high = self.config.scale
        scale = low + (high - low) * torch.rand(()).item()
        ratio = scale * min(self.size / height, self.size / width)
        return _window(height, width, ratio, self.size)


class DetectionEvaluation:
    """The image as it is; the detector scales it, and answers in its own pixels.

    Args:
        channels: that the model takes.
    """

    def __init__(self, channels: int = 3) -> None:
        self.channels = channels

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """The image, (C, H, W) uint8, and the untouched target."""
        return _pixels(image, self.channels), target


class SegmentationTraining:
    """A crop of the randomly resized image, a flip, other colours.

    The image is resized to fit (:func:`fitted`), times a factor drawn evenly. Of up to ten crops
    the first is taken of which no class fills more than ``max_class_share``; else the last. What
    the image lacks is padded on the right and below, with :data:`IGNORE` in the mask.

    Args:
        size: of the shorter side of a resized image in pixels, and of the crop's where the settings
            have no other.
        config: ranges and probabilities.
        mean: of each channel, after scaling pixels to [0, 1]: the colour of the padding.
    """

    def __init__(self, size: int, config: SegmentationAugmentConfig, mean: Sequence[float]) -> None:
        self.size = size
        self.side = config.crop or size
        self.config = config
        self.fill = _colour(mean)
        self.channels = len(mean)
        self.distort = _distortion(config.distortion)

    def __call__(self, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The crop, (C, side, side) uint8, and its mask, (side, side) uint8."""
        window = self._window(mask)
        flip = _happens(self.config.hflip)
        pixels = _placed(_pixels(image, self.channels), window, self.side, self.fill, flip)
        placed = _placed(Mask(mask[None]), window, self.side, IGNORE, flip)
        return self.distort(pixels), placed[0]

    def _window(self, mask: Tensor) -> Window:
        height, width = mask.shape
        low, high = self.config.scale
        factor = low + (high - low) * torch.rand(()).item()
        ratio = factor * fitted(height, width, self.size)[0] / height
        for _ in range(_CROP_TRIES):
            window = _window(height, width, ratio, self.side)
            top, left, cut_height, cut_width = window[:4]
            part = mask[top : top + cut_height, left : left + cut_width]
            if largest_share(part) <= self.config.max_class_share:
                break
        return window


class SegmentationEvaluation:
    """The whole image, resized to fit (:func:`fitted`); its mask as it was.

    Args:
        size: of the shorter side in pixels.
        channels: that the model takes.
    """

    def __init__(self, size: int, channels: int = 3) -> None:
        self.size = size
        self.channels = channels

    def __call__(self, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The image, (C, H, W) uint8, and the mask in the pixels that the image had before."""
        return resized(image, self.size, self.channels), mask


def resized(image: Image.Image, size: int, channels: int) -> Tensor:
    """The image, (C, H, W) uint8, resized to fit."""
    pixels = _pixels(image, channels)
    sides = fitted(image.height, image.width, size)
    return functional.resize(pixels, list(sides), antialias=True)


def fitted(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the ratio kept: the shorter side is size, or less where the longer
    would be more than four times that."""
    ratio = min(size / min(height, width), _LONGEST * size / max(height, width))
    return max(1, round(ratio * height)), max(1, round(ratio * width))


def largest_share(mask: Tensor) -> float:
    """The share of the most frequent class among the pixels that have one; 0 where none has."""
    counts = torch.bincount(mask[mask != IGNORE].flatten().long())
    return (counts.max() / counts.sum()).item() if len(counts) else 0.0


Window = tuple[int, int, int, int, int, int]
"""Top, left, height and width of a part of an image, and the height and width it is resized to."""


def _window(height: int, width: int, ratio: float, size: int) -> Window:
    """A random part of an image which, resized by a ratio, fills the square or lies within.

    The part is cut out before it is resized, which costs less than the other way round.
    """
    top, cut_height, new_height = _span(height, ratio, size)
    left, cut_width, new_width = _span(width, ratio, size)
    return top, left, cut_height, cut_width, new_height, new_width


def _span(length: int, ratio: float, size: int) -> tuple[int, int, int]:
    """Of one dimension: where the part begins, its length, and the length it is resized to."""
    resized = max(1, round(length * ratio))
    if resized <= size:
        return 0, length, resized
    part = min(length, max(1, round(size / ratio)))
    return int(torch.randint(length - part + 1, ()).item()), part, size


def _placed(pixels: Tensor, window: Window, size: int, fill: int | list[int], flip: bool) -> Tensor:
    """A part of an image, or of masks, resized, flipped or not, and padded to the square."""
    cut = functional.resized_crop(pixels, *window[:4], size=list(window[4:]), antialias=True)
    if flip:
        cut = functional.horizontal_flip(cut)
    padding = [0, 0, size - window[5], size - window[4]]
    return functional.pad(cut, padding, fill=fill).as_subclass(Tensor)


def _distortion(probability: float) -> v2.Transform:
    """Each of four changes of colour by chance, with the ranges of SSD (Liu et al. 2016)."""
    changes = (
        v2.ColorJitter(brightness=(0.875, 1.125)),
        v2.ColorJitter(contrast=(0.5, 1.5)),
        v2.ColorJitter(saturation=(0.5, 1.5)),
        v2.ColorJitter(hue=(-0.05, 0.05)),
    )
    return v2.Compose([v2.RandomApply([change], p=probability) for change in changes])


def _boxes(masks: Tensor) -> Tensor:
    """The corners, (N, 4) float32, of the boxes around masks that are not empty."""
    if not len(masks):
        return torch.zeros(0, 4)
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1  # torchvision's end in the last pixel, COCO's and ours behind it
    return boxes


def _chosen(target: Target, keep: Tensor) -> Target:
    """The objects to keep; what is not of objects stays."""
    return {name: value[keep] if value.ndim else value for name, value in target.items()}


def _pixels(image: Image.Image, channels: int) -> Tensor:
    return functional.pil_to_tensor(in_channels(image, channels))


def _happens(probability: float) -> bool:
    return torch.rand(()).item() < probability


def _colour(mean: Sequence[float]) -> list[int]:
    return [round(255 * value) for value in mean]
