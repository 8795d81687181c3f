"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kat.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, which takes its place if the body succeeds.

    Its ending is that of ``path``, for writers that go by it. Where the body fails, ``path`` is
    left as it was and nothing else remains.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, which gets its name if the body succeeds.

    Where the body fails, nothing remains.

    Raises:
        InputError: ``path`` is there already, or the folder to hold it is missing.
    """
    if path.exists():
        raise InputError(f"{path} exists already; remove it, or give another name")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} for {path.name} does not exist")
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


PICTURES = (".png", ".svg", ".pdf")
"""The endings of figures."""


def check_target(path: Path, endings: Sequence[str] = ()) -> None:
    """Checks that a file can be written there, before the work whose result it is to hold.

    Args:
        path: of the file.
        endings: it must have one of them, if there are any.

    Raises:
        InputError: another ending, a missing folder, or ``path`` is a folder.
    """
    if endings and path.suffix not in endings:
        raise InputError(f"{str(path)!r} must end in {' or '.join(endings)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} for {path.name} does not exist")


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
