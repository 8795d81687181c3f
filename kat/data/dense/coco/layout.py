"""Finds the files of a COCO dataset: the annotations of a split and the folder of its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kat.data.folders import existing_folder
from kat.data.naming import SPLIT_NAMES
from kat.errors import InputError
from kat.text import listing


@dataclass(frozen=True)
class CocoFiles:
    """The files of one split.

    Args:
        root: the folder of the dataset.
        annotations: the JSON file.
        images: the folder of the images.
    """

    root: Path
    annotations: Path
    images: Path


def find_coco(root: Path, split: str) -> CocoFiles:
    """Finds the files of a split, in the first of three layouts that exists.

    - COCO's own: ROOT/annotations/instances_train2017.json and ROOT/train2017 (or another year);
    - ROOT/annotations/train.json (or instances_train.json) and ROOT/train;
    - ROOT/train/_annotations.coco.json, beside the images (Roboflow).

    The validation split may be named val, validation, valid or test. Images may also be in
    ROOT/images/train or ROOT/images.

    Raises:
        InputError: the folder or the file is missing, or there are several files.
    """
    root = existing_folder(root)
    for name in SPLIT_NAMES[split]:
        beside = root / name / "_annotations.coco.json"
        if beside.is_file():
            return CocoFiles(root, beside, beside.parent)
        files = _annotation_files(root / "annotations", name)
        if len(files) > 1:
            listed = ", ".join(map(str, files))
            raise InputError(
                f"there is more than one file of the {split} split: {listed}; move all but one"
                " elsewhere"
            )
        if files:
            return CocoFiles(root, files[0], _images(root, files[0]))
    raise InputError(
        f"{root} has no annotations of the {split} split:"
        f" neither annotations/instances_{split}2017.json, annotations/{split}.json"
        f" nor {split}/_annotations.coco.json; there is {_listing(root)}"
    )


def _annotation_files(folder: Path, name: str) -> list[Path]:
    found = {folder / f"{name}.json", folder / f"instances_{name}.json"}
    found |= set(folder.glob(f"instances_{name}[0-9][0-9][0-9][0-9].json"))
    return sorted(file for file in found if file.is_file())


def _images(root: Path, annotations: Path) -> Path:
    name = annotations.stem.removeprefix("instances_")
    folders = (root / name, root / "images" / name, root / "images")
    for folder in folders:
        if folder.is_dir():
            return folder
    listed = ", ".join(map(str, folders))
    raise InputError(f"there is {annotations}, but no folder of its images: none of {listed}")


def _listing(root: Path) -> str:
    names = sorted(path.relative_to(root).as_posix() for path in root.glob("*"))
    return listing(names, 8) or "nothing"
