"""Finds folders of data, and the image files in them, each folder once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kat.data.naming import NOT_AN_IMAGE, SPLIT_NAMES, is_hidden, is_image
from kat.errors import InputError, UnreadableFile
from kat.files import open_input, reason_of


def existing_folder(path: Path) -> Path:
    """The folder, which must exist.

    Raises:
        InputError: it does not.
    """
    if not path.is_dir():
        raise InputError(f"the data folder {str(path)!r} does not exist; check --data")
    return path


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split, by the first of its names that exists."""
    return next((root / name for name in SPLIT_NAMES[split] if (root / name).is_dir()), None)


class ImageWalk:
    """Finds the image files below a folder, and what is left out there.

    Links to folders are followed, unless they lead back: to a folder that contains this one, lies
    in it, or has been read already. So no image is found twice by way of links to folders.

    Args:
        root: the folder.
        apart: folders that no link may lead to, such as that of the other split.

    Attributes:
        ignored: files and folders that are left out, each with the reason. Hidden ones are not
            listed.
    """

    def __init__(self, root: Path, apart: Sequence[Path] = ()) -> None:
        self.root = root
        self.ignored: dict[str, str] = {}
        self._closed = [Path(os.path.realpath(folder)) for folder in (root, *apart)]
        self._read: set[tuple[int, int]] = set()

    def files(self, below: str = "") -> Iterator[str]:
        """Yields the paths of the image files in a folder below the root, relative to the root.

        The folders are in the order of their paths, and the files of each in that of their names.
        """
        found: list[tuple[str, list[str]]] = []
        folders = [os.path.join(self.root, below)]
        while folders:
            folder = folders.pop()
            reason = self._reason_to_skip(folder)
            try:
                entries = [] if reason else list(os.scandir(folder))
            except OSError as error:
                reason, entries = f"it cannot be read: {reason_of(error)}", []
            if reason:
                self.ignored[folder] = reason
                continue
            shown = [entry for entry in entries if not is_hidden(entry.name)]
            inner = {entry.path for entry in shown if _is_folder(entry)}
            folders += inner
            files = sorted((e for e in shown if e.path not in inner), key=lambda e: e.name)
            found.append((folder, [file.name for file in files if self._is_image(file)]))
        for folder, names in sorted(found):
            relative = os.path.relpath(folder, self.root)
            yield from (os.path.normpath(os.path.join(relative, name)) for name in names)

    def _reason_to_skip(self, folder: str) -> str:
        """Why a folder is not read; empty if it is to be read."""
        try:
            state = os.stat(folder)
        except OSError as error:
            return f"it cannot be read: {reason_of(error)}"
        if os.path.islink(folder):
            target = Path(os.path.realpath(folder))
            for closed in self._closed:
                if target == closed or target in closed.parents or closed in target.parents:
                    return f"it is a link that leads back to {target}"
        identity = state.st_dev, state.st_ino
        if identity in self._read:
            return f"it is a link to {os.path.realpath(folder)}, which is read already"
        self._read.add(identity)
        return ""

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        if not is_image(entry.name):
            self.ignored[entry.path] = NOT_AN_IMAGE
            return False
        reason = _not_regular(entry)
        if reason:
            self.ignored[entry.path] = reason
        return not reason


def _not_regular(entry: os.DirEntry[str]) -> str:
    """Why an entry is not a regular file, or a link to one; empty if it is."""
    if os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
        return ""
    try:
        open_input(entry.path).close()
    except UnreadableFile as error:
        return error.reason
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def image_files(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Replaces folders among paths by the image files in them and in the folders below.

    Returns:
        The paths, and what is left out of the folders, with the reasons.
    """
    files: list[str] = []
    ignored: dict[str, str] = {}
    for path in paths:
        if os.path.isdir(path):
            walk = ImageWalk(Path(path))
            files += [os.path.join(path, file) for file in walk.files()]
            ignored |= walk.ignored
        else:
            files.append(path)
    return files, ignored
