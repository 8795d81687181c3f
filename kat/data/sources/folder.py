"""Image files in ImageNet's layout: one folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import read_image
from kat.data.folders import ImageWalk, existing_folder, inner_folders, split_folder
from kat.data.naming import SPLIT_NAMES, TEST_NAMES, is_hidden, sorted_classes
from kat.data.packed_strings import PackedStrings
from kat.data.sources.holdout import is_held_out, part_of_training
from kat.errors import InputError
from kat.text import quoted

EMPTY = "folders of classes without an image"


def open_folder(config: DataConfig, path: str, split: str, *, strict: bool) -> ImageDataset:
    """Open a split in ImageNet's layout: PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg.

    The classes are the names of the folders, sorted; by value if all are whole numbers. Images may
    also lie in folders below those, as in torchvision's ``ImageFolder``.

    If PATH has no validation split, a share ``config.holdout`` of the images of each class in
    PATH/train, or in PATH itself if that is missing too, is held out for validation. PATH/test is
    kept for testing, and validates only if ``config.val_split`` names it or the share is 0. If the
    share is 0 and the classes are in PATH itself, as in ImageNet-V2, -A and -R, they are the
    validation split. With ``config.validate_on="holdout"`` the share is held out of PATH/train
    although there is a validation split.

    Raises:
        InputError: a folder is missing; or if strict, a class has no image.
    """
    root = Path(path)
    folder, holds_out = _folder_of_split(root, split, config)
    names = [*chain.from_iterable(SPLIT_NAMES.values())]
    splits = [each for each in inner_folders(root) if each.name.lower() in names]
    inner = [each.name for each in inner_folders(folder) if each not in splits]
    classes = sorted_classes(name for name in inner if not is_hidden(name))
    walk = ImageWalk(folder, [each for each in splits if each != folder])
    files = {name: walk.files(name) for name in classes}
    empty = [name for name in classes if not files[name]]
    is_coco = any(root.glob("annotations/*.json"))
    if is_coco and (empty or "annotations" in classes):  # where masks may be, which are images
        raise InputError(f"{path} has annotations of COCO: give coco:{path}")
    if not classes:
        advice = f"its name makes it the {split} split: sort its images into folders of classes"
        if folder == root:
            advice = f"if it is one itself, give folder:{root.resolve().parent}"
        raise InputError(f"{folder} has no folder with the images of a class; {advice}")
    if empty and strict:
        raise InputError(
            f"{folder} has no image in {quoted(empty, 'the folder', 'the folders')}: each is a"
            " class; add images, or move the folder elsewhere"
        )
    data = dataset_of_files(folder, files, walk.ignored, config, split, holds_out=holds_out)
    if empty:
        data.problems[EMPTY] = empty
    for test in splits:
        if holds_out and test.name.lower() in TEST_NAMES:
            data.note += f"; {test} is kept for testing: kat eval RUN --data.val_split {test.name}"
    return data


def dataset_of_files(
    folder: Path,
    files: Mapping[str, Sequence[str]],
    ignored: Mapping[str, str],
    config: DataConfig,
    split: str,
    *,
    holds_out: bool,
) -> ImageDataset:
    """Make a dataset of image files, or the part of it that a holdout leaves to a split.

    Args:
        folder: which the paths of the files are relative to.
        files: the files of each class, both in their order.
        ignored: files that are left out, each with the reason.
        config: the settings of the data.
        split: ``"train"`` or ``"val"``.
        holds_out: take a part of the files only, as a share of each class is held out.
    """
    packed = PackedStrings.pack(chain.from_iterable(files.values()))
    labels = np.repeat(np.arange(len(files), dtype=np.int32), [*map(len, files.values())])
    data = ImageDataset(FolderSource(str(folder), packed, labels), [*files], ignored=ignored)
    return part_of_training(data, config, split, packed[:]) if holds_out else data


@dataclass(frozen=True)
class FolderSource:
    """Image files in a folder.

    Args:
        folder: path of the folder.
        names: paths of the files, relative to the folder.
        labels: (images,) int32, class indices.
    """

    folder: str
    names: PackedStrings
    labels: np.ndarray

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


def _folder_of_split(root: Path, split: str, config: DataConfig) -> tuple[Path, bool]:
    """Return the folder with the classes of a split, and True if a share of it is held out."""
    root = existing_folder(root)
    train, val = split_folder(root, "train"), split_folder(root, "val")
    has_val = val is not None and val.name.lower() not in TEST_NAMES
    if config.val_split != DataConfig.val_split:
        val, has_val = existing_folder(root / config.val_split), True
    unsplit = root if train is None and not has_val else None
    whole = train or unsplit
    if whole and is_held_out(config, has_val):
        return whole, True
    folder = train if split == "train" else val or unsplit
    return existing_folder(folder or root / split), False
