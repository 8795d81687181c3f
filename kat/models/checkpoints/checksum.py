"""Files that carry their own checksum, and that other programs read as they are.

The checksum is the SHA-256 of the file without its own place, which counts as zeros:

- files of ``torch.save``: the comment of the zip archive, the last bytes of the file;
- ``.safetensors``: the entry ``sha256`` of the metadata;
- ``.onnx``: the entry ``sha256`` of the metadata, the last of the file, which counts as absent.

A writer of the last two fills the entry with :data:`NO_CHECKSUM`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import BinaryIO

from kat.errors import InputError
from kat.files import open_input

NO_CHECKSUM = "0" * 64
"""The place of a checksum before it is written."""
_METADATA = re.compile(rb'(?<="__metadata__":)\{[^{}]*\}')
_HEADER_LIMIT = 100_000_000
"""The largest header that safetensors reads."""
_ZIP, _ONNX = b"sha256:", b"\x72\x4a\x0a\x06sha256\x12\x40"
"""The bytes before the last 64: a comment, or an entry of the field metadata_props."""


def write_checksum(path: Path) -> str:
    """Write the checksum into a file that was just written, and wait until it is on the disk.

    Returns:
        The checksum: SHA-256 in hexadecimal digits.
    """
    with path.open("r+b") as file:
        if path.suffix == ".safetensors":
            _sort_metadata(file)
        elif path.suffix != ".onnx":
            file.seek(-2, os.SEEK_END)  # the length of the comment
            file.write((len(_ZIP) + 64).to_bytes(2, "little") + _ZIP + NO_CHECKSUM.encode())
        place, _, digest = _read(file, path.suffix)
        file.seek(place)
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())
    return digest.decode()


def verify_checksum(path: Path) -> str:
    """Verify that a file is unchanged since its checksum was written.

    Returns:
        The checksum; empty if the file has none. One changed bit can make it look so: a reader that
        knows from elsewhere that there is one takes that for an error.

    Raises:
        InputError: the file is changed or unreadable.
    """
    with open_input(path) as file:
        _, digits, digest = _read(file, path.suffix)
    if digits and digits != digest:
        raise InputError(f"{path} is damaged: its checksum does not match its contents")
    return digits.decode()


def _read(file: BinaryIO, suffix: str) -> tuple[int, bytes, bytes]:
    """Return the place of the checksum in a file, the digits there, and those that should be there.

    Without a checksum both are empty.
    """
    size = file.seek(0, os.SEEK_END)
    if suffix == ".safetensors":
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        found = re.search(rb'"sha256":"([0-9a-f]{64})"', file.read(min(length, _HEADER_LIMIT)))
        place = 8 + found.start(1) if found else size
        digits, end, zeros = found[1] if found else b"", place, 64
    else:
        prefix, zeros = (_ONNX, 0) if suffix == ".onnx" else (_ZIP, 2)
        place = max(size - 64, 0)
        end = max(place - len(prefix) - zeros, 0)
        file.seek(end + zeros)
        last = file.read()
        digits = last[len(prefix) :] if last.startswith(prefix) else b""
    if not digits:
        return place, b"", b""
    digest = hashlib.sha256()
    file.seek(0)
    while end > 0 and (chunk := file.read(min(end, 1 << 22))):
        digest.update(chunk)
        end -= len(chunk)
    digest.update(bytes(zeros))
    file.seek(place + 64)
    while chunk := file.read(1 << 22):
        digest.update(chunk)
    return place, digits, digest.hexdigest().encode()


def _sort_metadata(file: BinaryIO) -> None:
    """Sort the metadata of a safetensors file, which its writer orders at random."""
    header = file.read(int.from_bytes(file.read(8), "little"))
    if found := _METADATA.search(header):
        metadata = json.dumps(json.loads(found[0]), sort_keys=True, separators=(",", ":")).encode()
        if len(metadata) == len(found[0]):
            file.seek(8 + found.start())
            file.write(metadata)
