"""What the sources that are folders have in common: the names of splits, images and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kat.errors import InputError

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "test")}
"""What a split's folder or file may be called."""

IMAGE_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".pgm",
    ".tif",
    ".tiff",
    ".webp",
)
"""What the name of an image ends in, in lower case; torchvision's list."""

NOT_AN_IMAGE = "it is not named as an image"


def is_image(name: str) -> bool:
    """Whether a file is named as an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def is_hidden(path: str) -> bool:
    """Whether a part of a path is hidden, as ``.DS_Store`` or ``._cat.jpg``."""
    return any(part.startswith(".") and part.strip(".") for part in path.split("/"))


def in_order(classes: Iterable[str]) -> list[str]:
    """The names of classes, sorted; by value where all are whole numbers: 10 after 9, not 1."""
    names = sorted(classes)
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def check_ignored(ignored: Mapping[str, str], where: object, bad_images: str) -> None:
    """Checks that nothing was passed over where that is asked for.

    Raises:
        InputError: something was, and ``bad_images`` is ``"fail"``.
    """
    if ignored and bad_images == "fail":
        name, reason = next(iter(ignored.items()))
        raise InputError(f"{name}: {reason} ({len(ignored)} such in {where})")
