"""The settings of data and augmentation, as in recipes and on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kat.settings import (
    Count,
    CropShare,
    Finite,
    Interpolation,
    NonNegative,
    OrAuto,
    Positive,
    PositiveRange,
    Probability,
    ProbabilityBelowOne,
    Share,
    ShareRange,
    Side,
    Workers,
)

SPLITS = ("train", "val")
"""The splits that a dataset may have."""


@dataclass
class DataConfig:
    """The dataset, and how it is loaded.

    Args:
        name: ``digits``; ``fashion_mnist`` or ``fashion_mnist:PATH`` (gzipped idx files);
            ``folder:PATH`` (ImageNet layout: PATH/train/CLASS/*, PATH/val/CLASS/*); ``csv:FILE`` (a
            table with columns path, label and optionally split); ``tar:PATH`` (such folders in
            train.tar and val.tar, or in tar files in PATH/train and PATH/val); ``wds:PATH``
            (WebDataset shards); ``hf:PATH_OR_NAME`` or ``hfds/ORG/NAME`` (Hugging Face); or a
            dataset that timm opens: ``torch/cifar10``. For detection
            ``coco:PATH`` (COCO's instances); for segmentation ``ade20k:PATH`` or ``ade:PATH``,
            ``voc:PATH``, or ``masks:PATH`` (PATH/train/images/*, PATH/train/masks/*.png,
            PATH/classes.txt). Short: --data.
        root: folder of a timm dataset, or cache folder of a Hugging Face dataset.
        train_split: name of the training split, for datasets of timm and Hugging Face.
        val_split: name of the validation split, for datasets of timm and Hugging Face, in a table
            and in a folder. ``test`` evaluates on the images of a table or a folder that are kept
            for testing.
        download: allow the download of datasets of timm and Hugging Face.
        num_classes: number of classes, for data that does not say it (WebDataset shards).
        image_key: column of the images in a Hugging Face dataset; null: the only column of images.
            In a table, the column of their paths; null: path, image or filename.
        label_key: column of the labels in a Hugging Face dataset; null: the only column of class
            labels. In a table; null: label. In WebDataset shards, the label's field in the .json
            files; null: the .cls files.
        holdout: share of each class that is held out of training for validation, if a folder, table
            or Hugging Face dataset has no validation split. With 0, a folder validates on its
            folder test; other such data cannot be trained on, and is evaluated whole.
        validate_on: images for validation: split is the data's own validation split; holdout is the
            share ``data.holdout`` of each class of the training split (digits, fashion_mnist,
            folder:PATH, csv:FILE and Hugging Face), which leaves the data's own validation split to
            ``kat eval`` as test images.
        image_size: side of the model's square input, in pixels; null: the size of the data; auto:
            the size of the model in model.init_from, or of the model that is named; if there is
            neither, the median side of 100 images.
        channels: channels of the images, after conversion: 1 for gray, 3 for RGB; null: the
            channels of the data; auto: the channels of the model in model.init_from.
        batch_size: images per step in each process; auto: chosen by the number of images.
        num_workers: processes that load images; 0 loads them in the main process.
        bad_images: what to do with an unreadable image: skip reports it, and training uses the next
            image in its place; fail stops.
        exif: upright turns photographs as their EXIF orientation says; ignore uses the pixels as
            stored. An image also stays as stored if its boxes or masks were drawn on the stored
            pixels, as their size shows.
        bad_annotations: what to do with invalid annotations, which ``kat data check`` lists:
            fail refuses the data, skip leaves them out.
        boxes_only: detection: ignore the masks of the annotations, and train on boxes only.
        interpolation: how images are resized for evaluation; auto: as the model in model.init_from
            needs.
        crop_pct: share of the resized image that the central crop keeps in evaluation; auto: the
            share of the model in model.init_from.
        mean: mean of each channel, for normalization; null: the mean of the dataset; auto: the mean
            of the model in model.init_from.
        std: standard deviation of each channel, for normalization; null: the deviation of the
            dataset; auto: the deviation of the model in model.init_from.

    Examples:
        >>> from kat.data import DataConfig
        >>> DataConfig("folder:photos", image_size=224, batch_size=64, num_workers=4).holdout
        0.1
    """

    name: str = "digits"
    root: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    download: bool = False
    num_classes: Count | None = None
    image_key: str | None = None
    label_key: str | None = None
    holdout: ProbabilityBelowOne = 0.1
    validate_on: Literal["split", "holdout"] = "split"
    image_size: OrAuto[Side | None] = None
    channels: OrAuto[Literal[1, 3] | None] = None
    batch_size: OrAuto[Count] = 128
    num_workers: Workers = 0
    bad_images: Literal["skip", "fail"] = "skip"
    exif: Literal["upright", "ignore"] = "upright"
    bad_annotations: Literal["fail", "skip"] = "fail"
    boxes_only: bool = False
    interpolation: OrAuto[Interpolation] = "bicubic"
    crop_pct: OrAuto[CropShare] = 1.0
    mean: OrAuto[list[Finite] | None] = None
    std: OrAuto[list[Positive] | None] = None


@dataclass
class AugmentConfig:
    """Augmentation of training images and their labels.

    Args:
        scale: smallest and largest share of the image's area that a random resized crop keeps; [1,
            1], together with ratio [1, 1], turns cropping off.
        ratio: smallest and largest aspect ratio of the crop.
        interpolation: how training images are resized; random picks bilinear or bicubic for each
            image.
        hflip: probability of a horizontal flip.
        color_jitter: strength of color jitter; no effect beside auto_augment.
        auto_augment: an augmentation policy of timm, e.g. ``rand-m9-mstd0.5`` (RandAugment); null:
            none.
        random_erasing: probability of erasing a random rectangle.
        mixup: alpha of mixup; 0 turns it off; auto: chosen by the number of images.
        cutmix: alpha of cutmix; 0 turns it off.
        mixup_prob: probability that mixup or cutmix is applied to a batch.
        mixup_switch_prob: probability of cutmix instead of mixup, if both are on.
        label_smoothing: probability that is taken from the true class and spread over all classes;
            mixed labels are smoothed, too.

    Examples:
        >>> from kat.data import AugmentConfig
        >>> AugmentConfig(hflip=0.5, auto_augment="rand-m9-mstd0.5", mixup=0.8).cutmix
        0.0
    """

    scale: ShareRange = (1.0, 1.0)
    ratio: PositiveRange = (1.0, 1.0)
    interpolation: Literal["random", "bilinear", "bicubic", "nearest", "lanczos"] = "bicubic"
    hflip: Probability = 0.0
    color_jitter: NonNegative = 0.0
    auto_augment: str | None = None
    random_erasing: Probability = 0.0
    mixup: OrAuto[NonNegative] = 0.0
    cutmix: NonNegative = 0.0
    mixup_prob: Probability = 1.0
    mixup_switch_prob: Probability = 0.5
    label_smoothing: Probability = 0.0


@dataclass
class DetectionAugmentConfig:
    """Augmentation of training images with boxes and masks.

    Large-scale jitter (Ghiasi et al. 2021): the image is resized to a random scale, then cropped or
    padded to a square of data.image_size. The size in evaluation is a property of the model:
    min_size and max_size in model.args.

    Args:
        scale: smallest and largest scale of an image; at scale 1 the image just fits into the
            square.
        hflip: probability of a horizontal flip.
        min_side: drop an object if its remaining width or height is below this many pixels.

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
        crop: side of the crop in pixels; null: data.image_size. Validation uses whole images
            instead.
        scale: smallest and largest random factor.
        max_class_share: crop again if one class fills more than this share of the crop.
        hflip: probability of a horizontal flip.
        distortion: probability of each of four changes: brightness, contrast, saturation, hue.

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
