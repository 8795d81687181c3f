"""The settings of what is done to images with boxes and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kat.errors import InputError


@dataclass
class DetectionAugmentConfig:
    """What is done to images with boxes and masks.

    For training, large-scale jitter (Ghiasi et al. 2021): the image is resized to a random scale
    and cut, or padded, to a square. For evaluation it is resized as a whole.

    Args:
        scale: range of the size that an image is resized to, with its ratio kept; 1 just fits the
            square.
        hflip: probability of a horizontal flip.
        min_side: objects of which less than so many pixels of width or height are left are dropped.
        short_side: at evaluation, the shorter side of images in pixels; None: their own.
        long_side: at evaluation, what the longer side may be at most; None: anything.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    hflip: float = 0.5
    min_side: float = 1.0
    short_side: int | None = 800
    long_side: int | None = 1333


@dataclass
class SegmentationAugmentConfig:
    """What is done to images with a class for each pixel.

    Args:
        short_side: what the shorter side of images is resized to, in pixels; None: it stays.
        long_side: what the longer side may then be at most; None: anything.
        scale: range of a random factor on that size, for training.
        max_class_share: a crop that one class fills to more than this share is drawn again.
        hflip: probability of a horizontal flip.
        distortion: probability of each of a change in brightness, contrast, saturation and hue.
    """

    short_side: int | None = 512
    long_side: int | None = 2048
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    hflip: float = 0.5
    distortion: float = 0.5


def check_detection(config: DetectionAugmentConfig) -> None:
    """Checks that every number is in its range.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    _check_common(config)
    _require(config.min_side >= 0, "min_side", config.min_side, "at least 0")


def check_segmentation(config: SegmentationAugmentConfig) -> None:
    """Checks that every number is in its range.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    _check_common(config)
    share = config.max_class_share
    _require(0 < share <= 1, "max_class_share", share, "above 0 and at most 1")
    _require(0 <= config.distortion <= 1, "distortion", config.distortion, "from 0 to 1")


def _check_common(config: DetectionAugmentConfig | SegmentationAugmentConfig) -> None:
    low, high = config.scale
    _require(0 < low <= high < math.inf, "scale", config.scale, "an ascending, positive range")
    _require(0 <= config.hflip <= 1, "hflip", config.hflip, "from 0 to 1")
    for name in ("short_side", "long_side"):
        value = getattr(config, name)
        _require(value is None or value >= 1, name, value, "at least 1")


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise InputError(f"{name} must be {wanted}, got {value}")
