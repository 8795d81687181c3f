"""Data sets and loaders."""

from kat.data.auto import AUTO, OrAuto
from kat.data.config import AugmentConfig, DataConfig, check_data, is_stream
from kat.data.loaders import (
    Batch,
    Preprocessing,
    eval_transform,
    make_loader,
    preprocessing,
    train_transform,
)
from kat.data.sources import (
    ImageSet,
    ImageStream,
    UnreadableImage,
    check_classes,
    decode,
    open_split,
)

__all__ = [
    "AUTO",
    "AugmentConfig",
    "Batch",
    "DataConfig",
    "ImageSet",
    "ImageStream",
    "OrAuto",
    "Preprocessing",
    "UnreadableImage",
    "check_classes",
    "check_data",
    "decode",
    "eval_transform",
    "is_stream",
    "make_loader",
    "open_split",
    "preprocessing",
    "train_transform",
]
