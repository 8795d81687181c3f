"""The settings of data and augmentation, as recipes and the command line spell them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kat.data.auto import OrAuto
from kat.errors import InputError


@dataclass
class DataConfig:
    """What to load, and how.

    Args:
        name: ``digits``; ``fashion_mnist`` or ``fashion_mnist:PATH`` (gzipped idx files);
            ``folder:PATH`` (ImageNet layout: PATH/train/CLASS/*, PATH/val/CLASS/*); ``tar:PATH``
            (the same in train.tar and val.tar, or in tar files in PATH/train and PATH/val);
            ``wds:PATH`` (WebDataset shards); ``hf:PATH_OR_NAME`` or ``hfds/ORG/NAME`` (Hugging
            Face); or a name of timm's: ``torch/cifar10``, and the streams ``wds/NAME``,
            ``hfids/NAME``, ``tfds/NAME``. For detection ``coco:PATH`` (COCO's instances); for
            segmentation ``ade20k:PATH``, ``voc:PATH``, or ``masks:PATH`` (PATH/train/images/*,
            PATH/train/masks/*.png, PATH/classes.txt).
        root: folder of a timm-named data set; cache folder of a Hugging Face one.
        train_split: name of the training split of a timm-named or Hugging Face data set.
        val_split: name of their validation split.
        download: whether a timm-named or Hugging Face data set may be downloaded.
        num_classes: classes of a data set that does not know them (WebDataset shards).
        image_key: column of the images of a Hugging Face data set; None: the only one of images.
        label_key: column of the labels of a Hugging Face data set; None: the only one of class
            labels. Of WebDataset shards the field of .json files with the label; None: .cls files.
        holdout: share of each class that is held out of training for validation, where a folder
            has no validation split; 0: such a folder is refused.
        image_size: side of the square that the model sees, in pixels; None: the data's own size;
            auto: that of the model in model.init_from.
        channels: what images are converted to: 1 for grey, 3 for RGB; None: as the data has them;
            auto: as the model in model.init_from takes them.
        batch_size: images a step, in each process; auto: by the number of images.
        num_workers: processes that load images; 0 loads them in the main process.
        bad_images: what to do about an unreadable image: name it and go on (in training with the
            next image in its place), or stop.
        bad_annotations: what to do about wrong boxes and masks (``kat data check`` lists them):
            refuse the data, or do without them.
        interpolation: how images are resized for evaluation; auto: as the model in
            model.init_from has it.
        crop_pct: at evaluation, the share of the resized image that the central crop keeps; auto:
            the same.
        mean: of each channel, for normalisation; None: the data set's own; auto: the same.
        std: of each channel, for normalisation; None: the data set's own; auto: the same.
    """

    name: str = "digits"
    root: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    download: bool = False
    num_classes: int | None = None
    image_key: str | None = None
    label_key: str | None = None
    holdout: float = 0.1
    image_size: OrAuto[int | None] = None
    channels: OrAuto[Literal[1, 3] | None] = None
    batch_size: OrAuto[int] = 128
    num_workers: int = 0
    bad_images: Literal["skip", "fail"] = "skip"
    bad_annotations: Literal["fail", "skip"] = "fail"
    interpolation: OrAuto[
        Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"]
    ] = "bicubic"
    crop_pct: OrAuto[float] = 1.0
    mean: OrAuto[list[float] | None] = None
    std: OrAuto[list[float] | None] = None


@dataclass
class AugmentConfig:
    """What is done to training images and their labels.

    Args:
        scale: range of the area that a random resized crop keeps; [1, 1] with ratio [1, 1] is none.
        ratio: range of the crop's aspect ratio.
        interpolation: how training images are resized; random is bilinear or bicubic by chance.
        hflip: probability of a horizontal flip.
        color_jitter: strength of colour jitter, used where auto_augment is None.
        auto_augment: a policy of timm's, e.g. ``rand-m9-mstd0.5`` (RandAugment), or None.
        random_erasing: probability of erasing a random rectangle.
        mixup: alpha of mixup; 0 is off; auto: by the number of images.
        cutmix: alpha of cutmix; 0 is off.
        mixup_prob: probability that a batch is mixed at all.
        mixup_switch_prob: probability of cutmix instead of mixup where both are on.
        label_smoothing: mass taken from the true class and spread over all, of mixed labels too.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    interpolation: Literal["random", "bilinear", "bicubic", "nearest", "lanczos"] = "bicubic"
    hflip: float = 0.0
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0
    mixup: OrAuto[float] = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    label_smoothing: float = 0.0


def check_data(data: DataConfig) -> None:
    """Checks that every number is in its range.

    Raises:
        InputError: names the first setting that is wrong, its value and what it may be.
    """
    _require(data.batch_size >= 1, "batch_size", data.batch_size, "at least 1")
    _require(0 <= data.holdout < 1, "holdout", data.holdout, "at least 0 and below 1")
    _require(data.num_workers >= 0, "num_workers", data.num_workers, "at least 0")
    _require(0 < data.crop_pct <= 1, "crop_pct", data.crop_pct, "above 0 and at most 1")
    for name in ("image_size", "num_classes"):
        value = getattr(data, name)
        _require(value is None or value >= 1, name, value, "at least 1")
    _require(all(map(math.isfinite, data.mean or [])), "mean", data.mean, "finite")
    _require(all(0 < v < math.inf for v in data.std or []), "std", data.std, "positive")


def is_stream(name: str) -> bool:
    """Whether a data set of this name can only be read in order, batch by batch."""
    return ":" not in name and name.split("/")[0] in ("wds", "hfids", "tfds")


def _require(valid: bool, name: str, value: object, wanted: str) -> None:
    if not valid:
        raise InputError(f"data.{name} must be {wanted}, got {value}")
