"""Transforms of images together with their boxes and masks.

All random draws use PyTorch's generator, which the loader seeds for each item. The transformed
images are (C, H, W) uint8, in grayscale or RGB as the model requires: :class:`kat.data.
DeviceTransform` normalizes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_area, masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes, Mask

from kat.data.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.decoding import in_channels
from kat.data.dense.detection import Target
from kat.data.dense.segmentation import IGNORE

_CROP_TRIES = 10
_LONGEST = 4
"""The largest ratio of a resized image's longer side to ``size``: ADE20K's usual 2048 for 512."""


class DetectionTrainTransform:
    """Large-scale jitter to a square, a horizontal flip, and boxes around the remaining masks.

    The scale s is uniform in its range, and the image is resized by the factor
    r = s min(size / height, size / width). A random crop is taken of what exceeds the square; what
    is smaller is padded on the right and below. Without masks, boxes are cut off at the edges.
    Crowds are left out, and so are objects whose box has a side below ``min_side``.

    Args:
        size: side of the square in pixels.
        config: ranges and probabilities.
        mean: per channel, after scaling pixels to [0, 1]: the color of the padding.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import DetectionAugmentConfig, DetectionTrainTransform, open_coco
        >>> data = open_coco(Path("items"), "train")
        >>> settings = DetectionAugmentConfig(hflip=0)
        >>> data.transform = DetectionTrainTransform(96, settings, mean=(0.5, 0.5, 0.5))
        >>> image, target = data[0]
        >>> image.shape
        torch.Size([3, 96, 96])
    """

    def __init__(self, size: int, config: DetectionAugmentConfig, mean: Sequence[float]) -> None:
        self.size = size
        self.config = config
        self.fill = _color(mean)
        self.channels = len(mean)

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """Return the square, (C, size, size) uint8, and its objects."""
        window = self._window(image.height, image.width)
        flip = _happens(self.config.hflip)
        pixels = _placed(_pixels(image, self.channels), window, self.size, self.fill, flip)
        objects = _selected(target, target["iscrowd"] == 0)
        if "masks" in objects:
            objects["masks"] = _placed(Mask(objects["masks"]), window, self.size, 0, flip)
            objects["area"] = objects["masks"].sum((1, 2), dtype=torch.float32)
            objects = _selected(objects, objects["area"] > 0)
            objects["boxes"] = _boxes(objects["masks"])
        else:
            boxes = BoundingBoxes(objects["boxes"], format="XYXY", canvas_size=image.size[::-1])
            objects["boxes"] = _placed(boxes, window, self.size, 0, flip)
            objects["area"] = box_area(objects["boxes"])
            objects = _selected(objects, objects["area"] > 0)
        sides = objects["boxes"][:, 2:] - objects["boxes"][:, :2]
        return pixels, _selected(objects, (sides >= self.config.min_side).all(1))

    def _window(self, height: int, width: int) -> Window:
        ratio = _factor(self.config.scale) * min(self.size / height, self.size / width)
        return _window(height, width, ratio, self.size)


@dataclass(frozen=True)
class DetectionEvalTransform:
    """Leaves the image as it is: the detector resizes it, and predicts boxes in its pixels.

    Args:
        channels: number of input channels of the model.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import DetectionEvalTransform, open_coco
        >>> data = open_coco(Path("items"), "val")
        >>> data.transform = DetectionEvalTransform()
        >>> image, target = data[0]
        >>> image.shape
        torch.Size([3, 64, 64])
    """

    channels: int = 3

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, Target]:
        """Return the image, (C, H, W) uint8, and the target."""
        return _pixels(image, self.channels), target


class SegmentationTrainTransform:
    """A crop of the randomly resized image, a horizontal flip, and color distortion.

    The image is resized to :func:`fitted_size` times a factor that is uniform in its range. Up to
    ten crops are drawn until no class fills more than ``max_class_share`` of one; otherwise the
    last is used. If the image is smaller, it is padded on the right and below, with :data:`IGNORE`
    in the mask.

    Args:
        size: shorter side of the resized image in pixels, and side of the crop if the settings give
            no other.
        config: ranges and probabilities.
        mean: per channel, after scaling pixels to [0, 1]: the color of the padding.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import SegmentationAugmentConfig, SegmentationTrainTransform
        >>> from kat.data.dense import open_segmentation
        >>> data = open_segmentation("ade20k", Path("items"), "train")
        >>> settings = SegmentationAugmentConfig(crop=32)
        >>> data.transform = SegmentationTrainTransform(64, settings, mean=(0.5, 0.5, 0.5))
        >>> image, mask = data[0]
        >>> image.shape, mask.shape
        (torch.Size([3, 32, 32]), torch.Size([32, 32]))
    """

    def __init__(self, size: int, config: SegmentationAugmentConfig, mean: Sequence[float]) -> None:
        self.size = size
        self.side = config.crop or size
        self.config = config
        self.fill = _color(mean)
        self.channels = len(mean)
        self.distort = _distortion(config.distortion)

    def __call__(self, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the crop, (C, side, side) uint8, and its mask, (side, side) uint8."""
        window = self._window(mask)
        flip = _happens(self.config.hflip)
        pixels = _placed(_pixels(image, self.channels), window, self.side, self.fill, flip)
        placed = _placed(Mask(mask[None]), window, self.side, IGNORE, flip)
        return self.distort(pixels), placed[0]

    def _window(self, mask: Tensor) -> Window:
        height, width = mask.shape
        ratio = _factor(self.config.scale) * fitted_size(height, width, self.size)[0] / height
        for _ in range(_CROP_TRIES):
            window = _window(height, width, ratio, self.side)
            top, left, cut_height, cut_width = window[:4]
            part = mask[top : top + cut_height, left : left + cut_width]
            if largest_share(part) <= self.config.max_class_share:
                break
        return window


@dataclass(frozen=True)
class SegmentationEvalTransform:
    """The whole image, resized to :func:`fitted_size`; the mask keeps its size.

    Args:
        size: shorter side in pixels.
        channels: number of input channels of the model.

    Examples:
        >>> from pathlib import Path
        >>> from kat.data.dense import SegmentationEvalTransform, open_segmentation
        >>> data = open_segmentation("ade20k", Path("items"), "val")
        >>> data.transform = SegmentationEvalTransform(size=96)
        >>> image, mask = data[0]
        >>> image.shape, mask.shape
        (torch.Size([3, 96, 96]), torch.Size([64, 64]))
    """

    size: int
    channels: int = 3

    def __call__(self, image: Image.Image, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the resized image, (C, h, w) uint8, and the mask, (H, W)."""
        return resized(image, self.size, self.channels), mask


def resized(image: Image.Image, size: int, channels: int) -> Tensor:
    """Resize an image to :func:`fitted_size`: (C, h, w) uint8."""
    pixels = _pixels(image, channels)
    sides = fitted_size(image.height, image.width, size)
    return functional.resize(pixels, list(sides), antialias=True)


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Scale height and width so that the shorter is ``size``.

    It is less than ``size`` if the longer would exceed four times ``size``.
    """
    ratio = min(size / min(height, width), _LONGEST * size / max(height, width))
    return max(1, round(ratio * height)), max(1, round(ratio * width))


def largest_share(mask: Tensor) -> float:
    """Return the share of the most frequent class among the pixels with a class, or 0."""
    counts = torch.bincount(mask[mask != IGNORE].flatten().long())
    return (counts.max() / counts.sum()).item() if len(counts) else 0.0


Window = tuple[int, int, int, int, int, int]
"""Top, left, height and width of a crop, and the height and width that it is resized to."""


def _window(height: int, width: int, ratio: float, size: int) -> Window:
    """Return a random crop that, resized by a ratio, fills the square or lies within it.

    Cropping before resizing costs less than the other order.
    """
    top, cut_height, new_height = _span(height, ratio, size)
    left, cut_width, new_width = _span(width, ratio, size)
    return top, left, cut_height, cut_width, new_height, new_width


def _span(length: int, ratio: float, size: int) -> tuple[int, int, int]:
    """Return the crop in one dimension: its start, its length, and its length when resized."""
    resized = max(1, round(length * ratio))
    if resized <= size:
        return 0, length, resized
    part = min(length, max(1, round(size / ratio)))
    return int(torch.randint(length - part + 1, ()).item()), part, size


def _placed(pixels: Tensor, window: Window, size: int, fill: int | list[int], flip: bool) -> Tensor:
    """Crop an image, masks or boxes, resize and flip the crop, and pad it to the square."""
    top, left, cut_height, cut_width, height, width = window
    cut = functional.resized_crop(
        pixels, top, left, cut_height, cut_width, size=[height, width], antialias=True
    )
    if flip:
        cut = functional.horizontal_flip(cut)
    padding = [0, 0, size - width, size - height]
    return functional.pad(cut, padding, fill=fill).as_subclass(Tensor)


def _distortion(probability: float) -> v2.Transform:
    """Four changes of color, each with this probability; the ranges are SSD's (Liu et al. 2016)."""
    changes = (
        v2.ColorJitter(brightness=(0.875, 1.125)),
        v2.ColorJitter(contrast=(0.5, 1.5)),
        v2.ColorJitter(saturation=(0.5, 1.5)),
        v2.ColorJitter(hue=(-0.05, 0.05)),
    )
    return v2.Compose([v2.RandomApply([change], p=probability) for change in changes])


def _boxes(masks: Tensor) -> Tensor:
    """Return the corners, (N, 4) float32, of the boxes around masks, none of which is empty."""
    if not len(masks):
        return torch.zeros(0, 4)
    boxes = masks_to_boxes(masks)
    boxes[:, 2:] += 1  # torchvision's boxes end in the last pixel, COCO's and ours behind it
    return boxes


def _selected(target: Target, keep: Tensor) -> Target:
    """Return the target with only these objects; entries that are not per object are unchanged."""
    return target | {name: value[keep] for name, value in target.items() if value.ndim}


def _pixels(image: Image.Image, channels: int) -> Tensor:
    return functional.pil_to_tensor(in_channels(image, channels))


def _factor(scale: tuple[float, float]) -> float:
    """Draw a factor from a range, uniformly."""
    return scale[0] + (scale[1] - scale[0]) * torch.rand(()).item()


def _happens(probability: float) -> bool:
    return torch.rand(()).item() < probability


def _color(mean: Sequence[float]) -> list[int]:
    return [round(255 * value) for value in mean]
