"""The settings of augmentation of images with boxes and masks."""

from __future__ import annotations

from dataclasses import dataclass

from kat.settings import Count, NonNegative, PositiveRange, Probability, Share


@dataclass
class DetectionAugmentConfig:
    """Augmentation of training images with boxes and masks.

    Large-scale jitter (Ghiasi et al. 2021): the image is resized to a random scale, then cropped or
    padded to a square of data.image_size. The size in evaluation is a property of the model:
    min_size and max_size in model.args.

    Args:
        scale: range of the scale of an image at its own aspect ratio; at 1 it just fits the square.
        hflip: probability of a horizontal flip.
        min_side: objects are dropped if less than this many pixels of their width or height are
            left.

    Examples:
        >>> from kat.data.dense import DetectionAugmentConfig
        >>> DetectionAugmentConfig(scale=(0.5, 1.5)).hflip
        0.5
    """

    scale: PositiveRange = (0.1, 2.0)
    hflip: Probability = 0.5
    min_side: NonNegative = 1.0


@dataclass
class SegmentationAugmentConfig:
    """Augmentation of training images with a class for each pixel.

    The image is resized until its shorter side is data.image_size (but its longer side at most four
    times that), then by a random factor, and a square is cropped.

    Args:
        crop: side of the square in pixels; null: data.image_size. Validation sees whole images and
            ignores it.
        scale: range of the random factor.
        max_class_share: a crop is drawn again if one class fills more than this share of it.
        hflip: probability of a horizontal flip.
        distortion: probability of each change of brightness, contrast, saturation and hue.

    Examples:
        >>> from kat.data.dense import SegmentationAugmentConfig
        >>> SegmentationAugmentConfig(crop=512).max_class_share
        0.75
    """

    crop: Count | None = None
    scale: PositiveRange = (0.5, 2.0)
    max_class_share: Share = 0.75
    hflip: Probability = 0.5
    distortion: Probability = 0.5
