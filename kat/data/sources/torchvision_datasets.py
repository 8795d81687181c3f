"""Datasets of torchvision, which timm opens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import Encoded, ImageDataset
from kat.data.decoding import as_unreadable, read_image
from kat.data.naming import class_names
from kat.data.packed_strings import PackedStrings
from kat.data.sources.huggingface import opened_elsewhere
from kat.errors import InputError


def open_torchvision(config: DataConfig, split: str) -> ImageDataset:
    """Open a split of the dataset ``config.name`` with timm's ``create_dataset``.

    Raises:
        InputError: timm cannot open the dataset, or its classes are unknown.
    """
    from timm.data import create_dataset

    if config.root is None:
        raise InputError(f"{config.name} needs data.root, the folder that it is in or comes to")
    option = "train_split" if split == "train" else "val_split"
    wanted = getattr(config, option)
    if not _is_split(config, wanted):
        raise InputError(
            f"dataset {config.name!r} has no split {wanted!r} (data.{option}) in"
            f" root={config.root!r}; --data folder:PATH holds images out for validation"
        )
    with opened_elsewhere(config):
        dataset = create_dataset(
            config.name, root=config.root, split=wanted, download=config.download
        )
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", [])
    labels = np.asarray(getattr(dataset, "targets", []))
    largest = int(labels.max(initial=-1)) if labels.ndim == 1 else -1
    classes = class_names(list(map(str, names)), config.num_classes, largest, repr(config.name))
    return ImageDataset(TorchvisionSource(dataset, config.name), classes)


def _is_split(config: DataConfig, split: str) -> bool:
    """Return False if timm would silently open another split.

    In a dataset with two splits timm takes every name but two for the test images, and in a folder
    without the split the folder itself.
    """
    train = ("train", "training")
    val = ("val", "valid", "validation", "eval", "evaluation")
    name = config.name.lower().removeprefix("torch/")
    if name in ("folder", "image_folder"):
        names = next((names for names in (train, val) if split in names), (split,))
        return any(os.path.exists(os.path.join(config.root or "", each)) for each in names)
    two = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
    return name not in two or split in (*train, *val, "test")


class TorchvisionSource:
    """A dataset of torchvision. If it has a loader of files, that is made to read bytes.

    Args:
        dataset: item i is (PIL image, class index).
        title: name of the dataset in messages.
    """

    def __init__(self, dataset: Any, title: str) -> None:
        self.dataset = dataset
        self.title = title
        self.samples = getattr(dataset, "samples", [])
        if hasattr(dataset, "loader"):
            dataset.loader = read_image

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the path of the file, or the number of the image if it has none."""
        return str(self.samples[index][0]) if self.samples else f"image {index} of {self.title}"

    def read(self, index: int) -> tuple[Encoded, int]:
        """Read the image and its label."""
        with as_unreadable(self.name(index)):
            return self.dataset[index]

    def listing(self) -> list[np.ndarray]:
        """Return the names of the files and the labels, as far as the dataset lists them."""
        names = PackedStrings.pack(Path(sample[0]).name for sample in self.samples)
        return [*names.arrays, np.asarray(getattr(self.dataset, "targets", []))]
