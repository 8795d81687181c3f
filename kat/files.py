"""Files and folders that are written completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kat.errors import InputError

PICTURES = (".png", ".svg", ".pdf")
"""The suffixes of figures."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it if the body succeeds.

    It has the suffix of ``path``, for writers that choose a format by it. If the body fails,
    ``path`` is left as it was and the temporary file is removed.
    """
    partial = _partial(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that is renamed to it if the body succeeds.

    If the body fails, nothing is left.

    Raises:
        InputError: ``path`` exists, or its parent folder does not.
    """
    if path.exists():
        raise InputError(f"{path} exists already; remove it, or give another name")
    _check_parent(path)
    partial = _partial(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, completely or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def link_or_copy(path: Path, other: Path) -> None:
    """Gives a file a second name by a hard link, or copies it where links are unsupported.

    ``path`` may be replaced afterwards, but not changed in place; ``other`` keeps the contents.
    """
    partial = _partial(other)
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, partial)
    os.replace(partial, other)
    partial.unlink(missing_ok=True)  # os.replace keeps it if both are the same file already


def check_target(path: Path, endings: Sequence[str] = ()) -> None:
    """Checks that a file can be written, before the work whose result it will hold.

    Args:
        path: the path of the file.
        endings: the suffixes that are allowed; empty for any.

    Raises:
        InputError: another suffix, a missing folder, or ``path`` is a folder.
    """
    if endings and path.suffix not in endings:
        raise InputError(f"{str(path)!r} must end in {' or '.join(endings)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    _check_parent(path)


def check_new_folder(path: Path) -> None:
    """Checks that a folder can be created, or exists and is empty.

    Raises:
        InputError: ``path`` is a file or a folder with something in it, or is below a file.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already; give a new or an empty folder")
    for above in path.parents:
        if above.is_file():
            raise InputError(f"{path} cannot be created: {above} is a file")


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises:
        InputError: the file does not exist, or is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def cache_folder() -> Path:
    """``$KAT_CACHE_DIR``, or ``kat`` in the user's cache folder."""
    if chosen := os.environ.get("KAT_CACHE_DIR"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kat"


def short_names(paths: Sequence[Path]) -> list[str]:
    """Distinct names for paths: as many of their last parts as tell them apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        labels = ["_".join(path.parts[-depth:]).strip("/") for path in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{index}_{path.name}" for index, path in enumerate(whole)]


def _partial(path: Path) -> Path:
    return path.with_name(f".partial-{path.name}")


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} for {path.name} does not exist")
