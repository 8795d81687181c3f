"""Files that carry their own checksum, and that other programs read as they are.

The checksum is the SHA-256 of the file, in which the place of the checksum counts as zeros or is
left out. Where it stands depends on the format:

- files of ``torch.save``: the comment of the zip archive, the last bytes of the file;
- ``.safetensors``: the entry ``sha256`` of the metadata, which the writer fills with
  :data:`NO_CHECKSUM`;
- ``.onnx``: an entry ``sha256`` of the metadata, appended to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from kat.errors import InputError
from kat.files import open_input

NO_CHECKSUM = "0" * 64
"""What stands in the place of the checksum before it is written."""
_DIGITS = len(NO_CHECKSUM)
_COMMENT = b"sha256:"
"""The beginning of the comment of a zip archive."""
_ENTRY = b"\x72\x4a\x0a\x06sha256\x12\x40"
"""The beginning of field 14 of ONNX's ModelProto, metadata_props: key sha256, 64 bytes of value."""
_METADATA = re.compile(rb'(?<="__metadata__":)\{[^{}]*\}')
_SHA256 = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_HEADER_LIMIT = 100_000_000
"""The largest header that safetensors reads."""
_CHUNK = 1 << 22


class _Place(NamedTuple):
    """Where a file has its checksum: what it covers, and what of that counts as zeros.

    ``digits`` is empty if the file has none.
    """

    end: int
    zeros: tuple[int, int]
    digits: bytes


def write_checksum(path: Path) -> str:
    """Writes the checksum into a file that was just written, and waits until it is on the disk.

    Returns:
        The checksum: SHA-256 in hexadecimal digits.
    """
    size = _size(path)
    with path.open("r+b") as file:
        if path.suffix == ".safetensors":
            _sort_metadata(file)
            place = _in_header(path, size)
            digest = _digest(path, place)
            file.seek(place.zeros[0])
            file.write(digest)
        elif path.suffix == ".onnx":
            digest = _digest(path, _Place(size, (0, 0), b""))
            file.seek(0, os.SEEK_END)
            file.write(_ENTRY + digest)
        else:
            digest = _digest(path, _Place(size, (size - 2, size), b""))
            file.seek(-2, os.SEEK_END)
            length = len(_COMMENT) + _DIGITS  # of the comment: 0 so far
            file.write(length.to_bytes(2, "little") + _COMMENT + digest)
        file.flush()
        os.fsync(file.fileno())
    return digest.decode()


def verify_checksum(path: Path) -> str:
    """Verifies that a file is unchanged since its checksum was written.

    Args:
        path: the path of the file.

    Returns:
        The checksum; empty if the file has none. One changed bit can make it look so: a reader that
        knows from elsewhere that there is one takes that for an error.

    Raises:
        InputError: the file is changed or unreadable.
    """
    try:
        size = _size(path)
        place = _in_header(path, size) if path.suffix == ".safetensors" else _at_end(path, size)
        intact = not place.digits or _digest(path, place) == place.digits
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not intact:
        raise InputError(f"{path} is damaged: its checksum does not match its contents")
    return place.digits.decode()


def _size(path: Path) -> int:
    with open_input(path) as file:
        return os.fstat(file.fileno()).st_size


def _at_end(path: Path, size: int) -> _Place:
    """The place in an ONNX file or a zip archive, whose last two bytes are the comment's length."""
    prefix, zeros = (_ENTRY, 0) if path.suffix == ".onnx" else (_COMMENT, 2)
    end = max(size - len(prefix) - _DIGITS, 0)
    with open_input(path) as file:
        file.seek(end)
        last = file.read()
    digits = last[len(prefix) :] if last.startswith(prefix) else b""
    return _Place(end, (end - zeros, end), digits)


def _in_header(path: Path, size: int) -> _Place:
    """The place in a safetensors file, whose header is JSON with its length before it."""
    with open_input(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _HEADER_LIMIT else b""
    found = _SHA256.search(header)
    if found is None:
        return _Place(size, (0, 0), b"")
    return _Place(size, (8 + found.start(1), 8 + found.end(1)), found[1])


def _sort_metadata(file: BinaryIO) -> None:
    """Sorts the metadata of a safetensors file, which its writer orders at random."""
    length = int.from_bytes(file.read(8), "little")
    header = file.read(length)
    if found := _METADATA.search(header):
        metadata = json.dumps(json.loads(found[0]), sort_keys=True, separators=(",", ":")).encode()
        if len(metadata) == len(found[0]):
            file.seek(8 + found.start())
            file.write(metadata)
            file.flush()


def _digest(path: Path, place: _Place) -> bytes:
    """SHA-256 of what the checksum covers, in hexadecimal digits."""
    start, stop = place.zeros
    digest = hashlib.sha256()
    with open_input(path) as file:
        _feed(digest, file, start)
        digest.update(bytes(stop - start))
        file.seek(stop)
        _feed(digest, file, place.end - stop)
    return digest.hexdigest().encode()


def _feed(digest: Any, file: BinaryIO, left: int) -> None:
    """Adds the next ``left`` bytes of a file, or as many as there are, to a digest."""
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
