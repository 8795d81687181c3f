"""The settings of what is done to images with boxes and masks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kat.errors import InputError


@dataclass
class DetectionAugmentConfig:
    """What is done to images with boxes and masks to train on.

    Large-scale jitter (Ghiasi et al. 2021): the image is resized to a random scale and cut, or
    padded, to a square of data.image_size. What evaluation resizes to is the model's: min_size and
    max_size in model.args.

    Args:
        scale: range of the size that an image is resized to, with its ratio kept; 1 just fits the
            square.
        hflip: probability of a horizontal flip.
        min_side: objects of which less than so many pixels of width or height are left are dropped.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    hflip: float = 0.5
    min_side: float = 1.0


@dataclass
class SegmentationAugmentConfig:
    """What is done to images with a class for each pixel to train on.

    The image is resized so that its shorter side is data.image_size, or its longer one four times
    that if it would be more, then by a random factor, and a square is cut out.

    Args:
        crop: side of the square in pixels; None: data.image_size. Validation, which looks at whole
            images, does not know it.
        scale: range of the factor.
        max_class_share: a crop that one class fills to more than this share is drawn again.
        hflip: probability of a horizontal flip.
        distortion: probability of each of a change in brightness, contrast, saturation and hue.
    """

    crop: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    hflip: float = 0.5
    distortion: float = 0.5


def check_detection(config: DetectionAugmentConfig) -> None:
    """Checks that every number is in its range.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    _check_common("detection", config)
    _require(config.min_side >= 0, "detection.min_side", config.min_side, "at least 0")


def check_segmentation(config: SegmentationAugmentConfig) -> None:
    """Checks that every number is in its range.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    _check_common("segmentation", config)
    crop, share, distortion = config.crop, config.max_class_share, config.distortion
    _require(crop is None or crop >= 1, "segmentation.crop", crop, "at least 1")
    name = "segmentation.max_class_share"
    _require(0 < share <= 1, name, share, "above 0 and at most 1")
    _require(0 <= distortion <= 1, "segmentation.distortion", distortion, "from 0 to 1")


def _check_common(section: str, config: DetectionAugmentConfig | SegmentationAugmentConfig) -> None:
    low, high = config.scale
    wanted = "0 < low <= high"
    _require(0 < low <= high < math.inf, f"{section}.scale", [low, high], wanted)
    _require(0 <= config.hflip <= 1, f"{section}.hflip", config.hflip, "from 0 to 1")


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise InputError(f"{name} must be {wanted}, got {value}")
