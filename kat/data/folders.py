"""Finds folders of data, and the image files in them, each folder once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.data.naming import NOT_AN_IMAGE, SPLIT_NAMES, is_hidden, is_image
from kat.errors import InputError
from kat.files import reason_of
from kat.text import listing, warn


def existing_folder(path: Path) -> Path:
    """Return the folder, which must exist.

    Raises:
        InputError: it does not.
    """
    if not path.is_dir():
        raise InputError(f"the data folder {str(path)!r} does not exist; check --data")
    return path


def inner_folders(root: Path) -> list[Path]:
    """Return the folders in a folder, which must exist, sorted."""
    return sorted(path for path in existing_folder(root).iterdir() if path.is_dir())


def left_out(files: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each reason for which files are left out, with their number.

    Args:
        files: the reason for each file.
    """
    paths = defaultdict(list)
    for path, reason in files.items():
        paths[reason].append(path)
    for reason, found in paths.items():
        number = "" if len(found) == 1 else f"{len(found)} files, first "
        yield f"skipped {number}{found[0]}: {reason}"


def split_folder(root: Path, split: str) -> Path | None:
    """Return the folder of a split, by the first of its names that exists, in any case.

    Raises:
        InputError: ``root`` is no folder.
    """
    folders = {folder.name.lower(): folder for folder in inner_folders(root)}
    return next((folders[name] for name in SPLIT_NAMES[split] if name in folders), None)


class ImageWalk:
    """Finds the image files below a folder, and what is left out there.

    Links to folders are followed, unless they lead back: to a folder that contains this one, lies
    in it, or has been read already. So no image is found twice by way of links to folders.

    Args:
        root: the folder.
        apart: folders that no link may lead to, such as the folder of the other split.

    Attributes:
        ignored: files and folders that are left out, each with the reason. Hidden ones are not
            listed.
    """

    def __init__(self, root: Path, apart: Sequence[Path] = ()) -> None:
        self.root = str(root)
        self.ignored: dict[str, str] = {}
        self._closed = [Path(os.path.realpath(folder)) for folder in (root, *apart)]
        self._read: set[tuple[int, int]] = set()

    def files(self, below: str = "") -> list[str]:
        """Return the paths of the image files in a folder below the root, relative to the root.

        The folders are in the order of their paths, the files of each in the order of their names.
        """
        found: list[str] = []
        walk = os.walk(os.path.join(self.root, below), onerror=self._ignore, followlinks=True)
        for folder, inner, names in walk:
            inner[:] = [name for name in inner if not is_hidden(name)]
            if self._is_read_already(folder):
                inner.clear()
                continue
            relative = os.path.relpath(folder, self.root)
            for name in sorted(names):
                if is_hidden(name):
                    continue
                if is_image(name):
                    found.append(os.path.normpath(os.path.join(relative, name)))
                else:
                    self.ignored[os.path.join(folder, name)] = NOT_AN_IMAGE
        return sorted(found, key=os.path.split)

    def _ignore(self, error: OSError) -> None:
        self.ignored[error.filename] = f"it cannot be read: {reason_of(error)}"

    def _is_read_already(self, folder: str) -> bool:
        state = os.stat(folder)
        target = Path(os.path.realpath(folder))
        leads_back = os.path.islink(folder) and any(
            target.is_relative_to(closed) or closed.is_relative_to(target)
            for closed in self._closed
        )
        if leads_back or (state.st_dev, state.st_ino) in self._read:
            self.ignored[folder] = f"it is a link back to {target}, or to one that is read already"
            return True
        self._read.add((state.st_dev, state.st_ino))
        return False


def image_files(images: Sequence[Any]) -> list[Any]:
    """Replace folders among images by the image files in them and in the folders below.

    A warning names what is left out for another reason than that it is no image.

    Raises:
        InputError: nothing is left.
    """
    found: list[Any] = []
    for image in images:
        if not isinstance(image, str | Path) or not os.path.isdir(image):
            found.append(image)
            continue
        walk = ImageWalk(Path(image))
        found += [os.path.join(image, file) for file in walk.files()]
        for path, reason in walk.ignored.items():
            if reason != NOT_AN_IMAGE:
                warn(f"{path} is left out: {reason}")
    if images and not found:
        raise InputError(f"there is no image in {listing(images)}")
    return found
