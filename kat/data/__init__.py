"""Data sets and loaders."""

from kat.data.config import AugmentConfig, DataConfig, is_stream
from kat.data.dataset import ImageSet, ImageStream
from kat.data.decoding import UnreadableImage, decode
from kat.data.device_transforms import DevicePreparation
from kat.data.loaders import (
    Batch,
    Loader,
    Preprocessing,
    eval_transform,
    make_loader,
    preprocessing,
    train_transform,
)
from kat.data.seeds import STEP, derived_seed, seed_all
from kat.data.sources.registry import check_classes, open_split, task_of_data

__all__ = [
    "STEP",
    "AugmentConfig",
    "Batch",
    "DataConfig",
    "DevicePreparation",
    "ImageSet",
    "ImageStream",
    "Loader",
    "Preprocessing",
    "UnreadableImage",
    "check_classes",
    "decode",
    "derived_seed",
    "eval_transform",
    "is_stream",
    "make_loader",
    "open_split",
    "preprocessing",
    "seed_all",
    "task_of_data",
    "train_transform",
]
