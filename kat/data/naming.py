"""Naming conventions of datasets in folders: splits, classes, image files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

from kat.errors import InputError
from kat.text import numbered, quoted

TEST_NAMES = ("test", "testing")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", *TEST_NAMES),
}
"""The names that the folder or file of each split may have; of several that are there, the first
is taken. Folders of classes for testing are kept for testing."""

LAYOUTS = {"ade20k": "ade20k", "ade": "ade20k", "voc": "voc", "masks": "masks"}
"""The layouts of folders of images and masks, by the prefix of ``data.name``."""

IMAGE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2",),
    "HEIF": (".heic", ".heif"),
}
"""The formats of image files, by Pillow's names, and their extensions in lower case. Pillow has
more, which run other programs (EPS) or hold no photographs. Of a GIF the first frame is taken;
HEIF needs the package pi-heif."""

IMAGE_EXTENSIONS = tuple(chain.from_iterable(IMAGE_FORMATS.values()))

_MOST = 100_000
"""More classes than any dataset of images has: such labels are ids of something else."""

_OF_SYSTEM = r"__MACOSX|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini"
"""The names of folders and files that macOS and Windows leave among images."""

NOT_AN_IMAGE = "it is not named as an image"


def task_of_data(name: str) -> str:
    """Return the task that a dataset of this name is for, e.g. detection.

    Examples:
        >>> from kat.data import task_of_data
        >>> task_of_data("digits"), task_of_data("coco:PATH"), task_of_data("ade20k:PATH")
        ('classification', 'detection', 'segmentation')
    """
    kind = name.partition(":")[0]
    if kind == "coco":
        return "detection"
    return "segmentation" if kind in LAYOUTS else "classification"


def is_image(name: str) -> bool:
    """Return True if a file has the extension of an image."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def is_hidden(path: str) -> bool:
    """Return True if a part of a path is hidden, or left by the system as ``__MACOSX`` is."""
    return bool(re.search(rf"(^|/)({_OF_SYSTEM}|\.+[^./][^/]*)(/|$)", path))


def is_of_system(path: str) -> bool:
    """Return True for a file that macOS or Windows leaves among images, e.g. ``Thumbs.db``."""
    return bool(re.search(rf"(^|/)({_OF_SYSTEM})(/|$)", path))


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Sort class names; by value if all are whole numbers, so that 10 follows 9."""
    classes = sorted(names)
    return sorted(classes, key=int) if all(name.isdecimal() for name in classes) else classes


def class_names(names: Sequence[str], count: int | None, largest: int, title: object) -> list[str]:
    """Return the names of the classes, or numbers in the place of missing names.

    Args:
        names: the names that the data have; empty if they have none.
        count: ``data.num_classes``; None: the largest label is the last class.
        largest: the largest label; -1 if there is none.
        title: the data, in messages.

    Raises:
        InputError: there is neither a name, a number nor a label; or a label is no class, or so
            large that labels cannot be class indices.
    """
    number = len(names) or count or min(largest + 1, _MOST)
    if largest >= number or not number:
        raise InputError(
            f"the classes of {title} are unknown, or too few for its largest label, {largest}: give"
            " data.num_classes, and class indices from 0 on as labels"
        )
    return list(names) or numbered(number)


def chosen_column(
    usual: Iterable[str], columns: Sequence[str], given: str | None, what: str, title: object
) -> str:
    """Return the column of a table that holds the images or labels.

    Args:
        usual: the columns that hold them if none is given.
        columns: all columns.
        given: the setting of the column.
        what: ``"image"`` or ``"label"``.
        title: the table, in the message.

    Raises:
        InputError: no column is usual or as given, or several are.
    """
    wanted = usual if given is None else (given,)
    found = [name for name in columns if name in wanted]
    if len(found) == 1:
        return found[0]
    which = quoted(found, "the column", "the columns") if found else "no column"
    raise InputError(
        f"{title} has {which} for the {what}; choose with data.{what}_key from"
        f" {', '.join(columns) or 'none'}"
    )


def check_unique(names: Iterable[str], where: object, singular: str, plural: str) -> None:
    """Check that no name occurs twice.

    Args:
        names: names of classes or images.
        where: the file with the names.
        singular, plural: what the names are of, e.g. ``"class"``.

    Raises:
        InputError: a name occurs twice.
    """
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{where} names {quoted(repeated, singular, plural)} more than once")
