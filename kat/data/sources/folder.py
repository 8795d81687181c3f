"""Image files in ImageNet's layout: one folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import read_image
from kat.data.folders import ImageWalk, existing_folder, split_folder
from kat.data.naming import SPLIT_NAMES, is_hidden, sorted_classes
from kat.data.packed_strings import PackedStrings
from kat.data.sources.holdout import part_of_training
from kat.errors import InputError
from kat.text import quoted


def open_folder(config: DataConfig, path: str, split: str) -> ImageDataset:
    """Open a split in ImageNet's layout: PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg.

    The classes are the names of the folders, sorted; by value if all are whole numbers. Images may
    also lie in folders below those, as in torchvision's ``ImageFolder``.

    If PATH has no validation split, a share ``config.holdout`` of the images of each class in
    PATH/train, or in PATH itself if that is missing too, is held out for validation. If the share
    is 0 and the classes are in PATH itself, as in ImageNet-V2, -A and -R, they are the validation
    split. With ``config.validate_on="holdout"`` the share is held out of PATH/train although there
    is a validation split.

    Raises:
        InputError: a folder is missing, or a class has no image.
    """
    root = Path(path)
    folder, holdout = _folder_of_split(root, split, config)
    classes = sorted_classes(
        e.name for e in folder.iterdir() if e.is_dir() and not is_hidden(e.name)
    )
    named = [root / name for names in SPLIT_NAMES.values() for name in names]
    walk = ImageWalk(folder, [each for each in named if each.is_dir() and each != folder])
    files = [walk.files(name) for name in classes]
    coco = "annotations" if any(root.glob("annotations/*.json")) else None  # it may hold masks
    empty = [n for n, found in zip(classes, files, strict=True) if not found or n == coco]
    if empty or not classes:
        reason = "".join(f": {path}: {why}" for path, why in [*walk.ignored.items()][:1])
        reason = f"; its annotations are COCO's: give coco:{path}" if coco else reason
        which = quoted(empty, "class", "classes") if empty else "any class: each is a folder"
        raise InputError(f"{folder} has no image for {which}{reason}")
    by_class = dict(zip(classes, files, strict=True))
    return dataset_of_files(folder, by_class, walk.ignored, config, split, holdout, path)


def dataset_of_files(
    folder: Path,
    files: Mapping[str, Sequence[str]],
    ignored: Mapping[str, str],
    config: DataConfig,
    split: str,
    holdout: float,
    title: str,
) -> ImageDataset:
    """Make a dataset of image files, or the part of it that a holdout leaves to a split.

    Args:
        folder: which the paths of the files are relative to.
        files: the files of each class, both in their order.
        ignored: files that are left out, each with the reason.
        config: the settings of the data.
        split: ``"train"`` or ``"val"``.
        holdout: the share of each class that is held out; 0: the dataset is whole.
        title: the data, in the note on the holdout.
    """
    packed = PackedStrings.pack(chain.from_iterable(files.values()))
    labels = np.repeat(np.arange(len(files), dtype=np.int32), [*map(len, files.values())])
    data = ImageDataset(FolderSource(str(folder), packed, labels), [*files], ignored=ignored)
    if holdout == 0:
        return data
    own = config.validate_on == "split"
    whole = f"{title} has no validation split" if own else f"the training split of {title}"
    return part_of_training(data, packed[:], holdout, split, whole)


class FolderSource:
    """Image files in a folder.

    Args:
        folder: path of the folder.
        names: paths of the files, relative to the folder.
        labels: (images,) int32, class indices.
    """

    def __init__(self, folder: str, names: PackedStrings, labels: np.ndarray) -> None:
        self.folder = folder
        self.names = names
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.path.join(self.folder, self.names[index])

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the bytes of the file and the label."""
        return read_image(self.name(index)), int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """Return the paths of the files, relative to the folder, and the labels."""
        return [*self.names.arrays, self.labels]


def _folder_of_split(root: Path, split: str, config: DataConfig) -> tuple[Path, float]:
    """Return the folder with the classes of a split, and the share of it that is held out."""
    root = existing_folder(root)
    train, val = split_folder(root, "train"), split_folder(root, "val")
    unsplit = train is None and val is None
    whole = root if unsplit else train
    if whole and config.holdout > 0 and (val is None or config.validate_on == "holdout"):
        return whole, config.holdout
    folder = train if split == "train" else root if unsplit else val
    return existing_folder(folder or root / split), 0.0
