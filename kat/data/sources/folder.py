"""Images as files: ImageNet's layout, a folder a class."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kat.data.dataset import ImageSet, SourcePart
from kat.data.holdout import held_out
from kat.data.packed import PackedStrings
from kat.data.splits import (
    NOT_AN_IMAGE,
    SPLIT_NAMES,
    check_ignored,
    in_order,
    is_hidden,
    is_image,
)
from kat.errors import InputError
from kat.text import either, quoted


def open_folder(root: Path, split: str, bad_images: str, holdout: float) -> ImageSet:
    """ImageNet's layout: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg.

    The classes are the sorted names of the folders, by their value where all are whole numbers, and
    images may lie in folders below them, as for torchvision's ``ImageFolder``.

    Where there is no ROOT/val, a share ``holdout`` of the images of each class of ROOT/train, or of
    ROOT if there is no such folder either, is the validation split, and the rest is trained on.
    Without a share the folders of such a ROOT, as ImageNet-V2, -A and -R, are to be evaluated on.

    Raises:
        InputError: a folder is missing, or a class has no image.
    """
    folder, share = _place(root, split, holdout)
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
        raise InputError(f"{folder} has no image for {quoted(empty, 'class', 'classes')}")
    check_ignored(ignored, folder, bad_images)
    if share == 0:
        return ImageSet(source, classes, ignored=ignored)
    kept_back = np.array(held_out(packed[:], source.labels.tolist(), share))
    note = (
        f"{root} has no validation split: {kept_back.sum()} of its {len(packed)} images,"
        f" {share:g} of each class, are held out for validation and not trained on"
    )
    chosen = np.flatnonzero(kept_back == (split == "val"))
    return ImageSet(SourcePart(source, chosen), classes, ignored=ignored, note=note)


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


def _place(root: Path, split: str, holdout: float) -> tuple[Path, float]:
    """The folder of a split's classes, and the share of it that is held out for validation."""
    if not root.is_dir():
        raise InputError(f"the data folder {str(root)!r} does not exist")
    found = {
        name: next((root / each for each in folders if (root / each).is_dir()), None)
        for name, folders in SPLIT_NAMES.items()
    }
    bare = not any(found.values()) and any(each.is_dir() for each in root.iterdir())
    whole = root if bare else found["train"]
    if found["val"] is None and whole is not None and holdout > 0:
        return whole, holdout
    folder = root if bare and split == "val" else found[split]
    if folder is None:
        names = either(SPLIT_NAMES[split])
        raise InputError(f"{root} has no folder {names} (each holds one folder a class)")
    return folder, 0.0


def _files(folder: Path, below: str) -> Iterator[str]:
    """The paths, from ``folder``, of the files below but hidden ones; sorted, links followed."""
    for path, _, names in sorted(os.walk(folder / below, followlinks=True)):
        relative = os.path.relpath(path, folder)
        if not is_hidden(relative):
            yield from (os.path.join(relative, n) for n in sorted(names) if not is_hidden(n))
