"""PyTorch files that carry their own checksum.

``torch.save`` writes a zip archive. Its comment, the last bytes of the file, is set to the SHA-256
of everything before it. Any program that reads files of ``torch.save`` still reads these.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kat.errors import InputError
from kat.files import open_input

_PREFIX = b"sha256:"
_COMMENT = len(_PREFIX) + 64
_CHUNK = 1 << 22


def write_checksum(path: Path) -> None:
    """Appends the checksum to a file of ``torch.save``, and waits until it is on the disk."""
    digest = _digest(path, path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_COMMENT.to_bytes(2, "little"))  # the length of the comment, 0 so far
        file.write(_PREFIX + digest)
        file.flush()
        os.fsync(file.fileno())


def verify_checksum(path: Path, *, required: bool = False) -> None:
    """Verifies that a file is unchanged since its checksum was written.

    Args:
        path: the file.
        required: whether a missing checksum is an error.

    Raises:
        InputError: the file is changed or unreadable.
    """
    try:
        size = path.stat().st_size
        with open_input(path) as file:
            file.seek(max(size - _COMMENT, 0))
            comment = file.read()
        if not comment.startswith(_PREFIX):
            if required:
                raise InputError(f"{path} is damaged: the checksum at its end is missing")
            return
        intact = _digest(path, size - _COMMENT) == comment[len(_PREFIX) :]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not intact:
        raise InputError(f"{path} is damaged: its checksum does not match its contents")


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the first ``size`` bytes, in hexadecimal digits.

    The last two bytes count as 0: they hold the length of the comment.
    """
    digest, left = hashlib.sha256(), size - 2
    with open_input(path) as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    digest.update(b"\0\0")
    return digest.hexdigest().encode()
