"""Datasets and their batches: sources, transforms, loaders, seeds."""

from typing import TYPE_CHECKING

from kat.extras import on_first_use

_NAMES = {
    ".check": "SplitReport between_splits check_split",
    ".config": "AugmentConfig DataConfig",
    ".dataset": "ImageDataset",
    ".decoding": "UnreadableImage decode",
    ".loading.loader": "Batch Loader make_loader",
    ".naming": "task_of_data",
    ".record": "data_record differences located",
    ".seeds": "STEP derived_seed seed_all",
    ".sources.registry": "check_classes open_split",
    ".transforms": "DeviceTransform Preprocessing eval_transform preprocessing train_transform",
}
if TYPE_CHECKING:
    from kat.data.check import SplitReport, between_splits, check_split
    from kat.data.config import AugmentConfig, DataConfig
    from kat.data.dataset import ImageDataset
    from kat.data.decoding import UnreadableImage, decode
    from kat.data.loading.loader import Batch, Loader, make_loader
    from kat.data.naming import task_of_data
    from kat.data.record import data_record, differences, located
    from kat.data.seeds import STEP, derived_seed, seed_all
    from kat.data.sources.registry import check_classes, open_split
    from kat.data.transforms import (
        DeviceTransform,
        Preprocessing,
        eval_transform,
        preprocessing,
        train_transform,
    )
else:
    __getattr__, __dir__ = on_first_use(__name__, "train", _NAMES)

__all__ = [
    "STEP",
    "AugmentConfig",
    "Batch",
    "DataConfig",
    "DeviceTransform",
    "ImageDataset",
    "Loader",
    "Preprocessing",
    "SplitReport",
    "UnreadableImage",
    "between_splits",
    "check_classes",
    "check_split",
    "data_record",
    "decode",
    "derived_seed",
    "differences",
    "eval_transform",
    "located",
    "make_loader",
    "open_split",
    "preprocessing",
    "seed_all",
    "task_of_data",
    "train_transform",
]
