"""PyTorch files that carry their own checksum.

A file that ``torch.save`` has written is a zip archive; its comment, the last bytes of the file, is
made to hold the SHA-256 of all the rest. Every program that reads such files reads these.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from kat.errors import InputError

_MARK = b"sha256:"
_SEAL = len(_MARK) + 64
_CHUNK = 1 << 22


def seal(path: Path) -> None:
    """Adds the checksum to a file of ``torch.save``'s, and waits until it is on the disk."""
    digest = _digest(path, path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL.to_bytes(2, "little"))  # the length of the archive's comment, 0 so far
        file.write(_MARK + digest)
        file.flush()
        os.fsync(file.fileno())


def check_seal(path: Path, *, required: bool = False) -> None:
    """Checks that a file is what was sealed.

    Args:
        path: the file.
        required: whether a file without a checksum is an error too.

    Raises:
        InputError: it is not, or cannot be read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(size - _SEAL, 0))
            comment = file.read()
        if not comment.startswith(_MARK):
            if required:
                raise InputError(f"{path} is damaged: the checksum at its end is missing")
            return
        whole = _digest(path, size - _SEAL) == comment[len(_MARK) :]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not whole:
        raise InputError(f"{path} is damaged: its checksum is not that of its contents")


def keep_as(path: Path, other: Path) -> None:
    """Gives the contents of a file another name too, without copying them where that is possible.

    ``path`` may be replaced afterwards, not changed; ``other`` keeps what it was.
    """
    partial = other.with_name(f".partial-{other.name}")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, partial)
    os.replace(partial, other)
    partial.unlink(missing_ok=True)  # which is still there where both were one file already


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the first bytes of a file before its seal, as hexadecimal digits.

    The last two of them are taken as 0: they are the length of the comment.
    """
    digest, left = hashlib.sha256(), size - 2
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode()
