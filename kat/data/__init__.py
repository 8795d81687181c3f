"""Data sets and loaders."""

from kat.data.config import AugmentConfig, DataConfig, check_data
from kat.data.decoding import UnreadableImage, decode
from kat.data.image_set import ImageSet, ImageStream
from kat.data.loaders import (
    Batch,
    Preprocessing,
    eval_transform,
    make_loader,
    preprocessing,
    train_transform,
)
from kat.data.sources import check_classes, open_split

__all__ = [
    "AugmentConfig",
    "Batch",
    "DataConfig",
    "ImageSet",
    "ImageStream",
    "Preprocessing",
    "UnreadableImage",
    "check_classes",
    "check_data",
    "decode",
    "eval_transform",
    "make_loader",
    "open_split",
    "preprocessing",
    "train_transform",
]
