"""Bounds for zip archives: files of ``torch.save`` and of NumPy."""

from __future__ import annotations

import zipfile
from pathlib import Path

from kat.errors import InputError
from kat.files import open_input
from kat.text import scaled

_GROWTH = 8
"""How many times larger the contents may be; weights are stored as they are, or hardly shrink."""
_ALWAYS = 1 << 24
"""In bytes; contents up to this size are allowed in any case."""


def check_archive(path: Path) -> None:
    """Checks that the contents of a zip archive are not much larger than its file.

    A file that is no zip archive passes.

    Raises:
        MissingFile, UnreadableFile: see :func:`kat.files.open_input`.
        InputError: they are: they would fill the memory.
    """
    with open_input(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError):
            return  # the reader says what is wrong
        own = file.seek(0, 2)
    if size > max(_ALWAYS, _GROWTH * own):
        raise InputError(
            f"{path} has {scaled(own, 'B')} and would become {scaled(size, 'B')} when it is"
            " unpacked; it is refused"
        )
