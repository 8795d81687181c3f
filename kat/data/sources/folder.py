"""Image files in ImageNet's layout: one folder per class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset, SourceSubset
from kat.data.decoding import read_image
from kat.data.naming import (
    NOT_AN_IMAGE,
    SPLIT_NAMES,
    check_ignored,
    is_hidden,
    is_image,
    sorted_classes,
)
from kat.data.packed_strings import PackedStrings
from kat.data.sources.holdout import held_out
from kat.errors import InputError
from kat.text import either, quoted


def open_folder(config: DataConfig, path: str, split: str) -> ImageDataset:
    """Opens a split in ImageNet's layout: PATH/train/CLASS/*.jpg and PATH/val/CLASS/*.jpg.

    The classes are the names of the folders, sorted; by value if all are whole numbers. Images may
    also lie in folders below those, as in torchvision's ``ImageFolder``.

    If PATH has no validation split, a share ``config.holdout`` of the images of each class in
    PATH/train, or in PATH itself if that is missing too, is held out for validation. If the share
    is 0 and the classes are in PATH itself, as in ImageNet-V2, -A and -R, they are the validation
    split.

    Raises:
        InputError: a folder is missing, or a class has no image.
    """
    root = Path(path)
    folder, holdout = _folder_of_split(root, split, config.holdout)
    with os.scandir(folder) as entries:
        classes = sorted_classes(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    if not classes:
        raise InputError(f"{folder} is empty: it must hold one folder per class")
    ignored: dict[str, str] = {}
    labels = array("i")

    def names() -> Iterator[str]:
        for label, name in enumerate(classes):
            for file in _files(folder, name):
                if is_image(file):
                    labels.append(label)
                    yield file
                else:
                    ignored[str(folder / file)] = NOT_AN_IMAGE

    packed = PackedStrings.pack(names())
    source = FolderSource(str(folder), packed, np.frombuffer(labels, np.int32))
    counts = np.bincount(source.labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise InputError(f"{folder} has no image for {quoted(empty, 'class', 'classes')}")
    check_ignored(ignored, folder, config.bad_images)
    if holdout == 0:
        return ImageDataset(source, classes, ignored=ignored)
    validation = np.array(held_out(packed[:], source.labels.tolist(), holdout))
    note = (
        f"{root} has no validation split: {validation.sum()} of its {len(packed)} images,"
        f" {holdout:g} of each class, are held out for validation and not trained on"
    )
    indices = np.flatnonzero(validation == (split == "val"))
    return ImageDataset(SourceSubset(source, indices), classes, ignored=ignored, note=note)


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
        """The path of the file."""
        return os.path.join(self.folder, self.names[index])

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads the bytes of the file and the label."""
        return read_image(self.name(index)), int(self.labels[index])


def _folder_of_split(root: Path, split: str, holdout: float) -> tuple[Path, float]:
    """The folder with the classes of a split, and the share that is held out for validation."""
    if not root.is_dir():
        raise InputError(f"the data folder {str(root)!r} does not exist")
    found = {
        name: next((root / each for each in folders if (root / each).is_dir()), None)
        for name, folders in SPLIT_NAMES.items()
    }
    unsplit = not any(found.values()) and any(each.is_dir() for each in root.iterdir())
    whole = root if unsplit else found["train"]
    if found["val"] is None and whole is not None and holdout > 0:
        return whole, holdout
    folder = root if unsplit and split == "val" else found[split]
    if folder is None:
        names = either(SPLIT_NAMES[split])
        raise InputError(f"{root} has no folder {names} (each holds one folder per class)")
    return folder, 0.0


def _files(folder: Path, below: str) -> Iterator[str]:
    """The files below FOLDER/BELOW, relative to FOLDER; sorted, hidden ones left out.

    Symbolic links are followed.
    """
    for path, _, names in sorted(os.walk(folder / below, followlinks=True)):
        relative = os.path.relpath(path, folder)
        if not is_hidden(relative):
            yield from (os.path.join(relative, n) for n in sorted(names) if not is_hidden(n))
