"""Images as files: ImageNet's layout, a folder a class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from kat.data.image_set import ImageSet
from kat.data.packed import PackedStrings
from kat.data.splits import (
    NOT_AN_IMAGE,
    SPLIT_NAMES,
    check_ignored,
    either,
    in_order,
    is_hidden,
    is_image,
    some,
)
from kat.errors import InputError


def open_folder(root: Path, split: str, bad_images: str) -> ImageSet:
    """ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

    The classes are the sorted names of the folders, by their value where all are whole numbers, and
    images may lie in folders below them, as for torchvision's ``ImageFolder``. Where ROOT has
    neither split, as ImageNet-V2, -A and -R, its folders are the classes, to evaluate on.

    Raises:
        InputError: a folder is missing, or a class has no image.
    """
    folder = _folder_of_split(root, split)
    with os.scandir(folder) as entries:
        classes = in_order(e.name for e in entries if e.is_dir() and not is_hidden(e.name))
    if not classes:
        raise InputError(f"{folder} is empty: it must hold one folder a class")
    ignored: dict[str, str] = {}
    labels = array("i")

    def names() -> Iterator[str]:
        for label, name in enumerate(classes):
            for path in _files(folder, name):
                if is_image(path):
                    labels.append(label)
                    yield path
                else:
                    ignored[str(folder / path)] = NOT_AN_IMAGE

    packed = PackedStrings.of(names())
    source = FolderSource(str(folder), packed, np.frombuffer(labels, np.int32))
    filled = np.bincount(source.labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, filled, strict=True) if count == 0]
    if empty:
        raise InputError(f"{folder} has no image for {some(empty, 'class', 'classes')}")
    check_ignored(ignored, folder, bad_images)
    return ImageSet(source, classes, ignored=ignored)


class FolderSource:
    """Images in the files of a folder.

    Args:
        folder: its path.
        names: the paths of the files, relative to it.
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
        """The bytes of the file and the image's label."""
        with open(self.name(index), "rb") as file:
            return file.read(), int(self.labels[index])


def _folder_of_split(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise InputError(f"the data folder {str(root)!r} does not exist")
    for name in SPLIT_NAMES[split]:
        if (root / name).is_dir():
            return root / name
    if split == "val" and not any((root / name).is_dir() for name in chain(*SPLIT_NAMES.values())):
        return root
    names = either(SPLIT_NAMES[split])
    raise InputError(f"{root} has no folder {names} (each holds one folder a class)")


def _files(folder: Path, below: str) -> Iterator[str]:
    """The paths, from ``folder``, of the files below but hidden ones; sorted, links followed."""
    for path, _, names in sorted(os.walk(folder / below, followlinks=True)):
        relative = os.path.relpath(path, folder)
        if not is_hidden(relative):
            yield from (os.path.join(relative, n) for n in sorted(names) if not is_hidden(n))
