"""Where the members of a tar file are: read from its headers once, and kept."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kat.data.splits import is_hidden
from kat.errors import InputError
from kat.files import cache_folder

_VERSION = 1
_BLOCK = 512
_THREADS = 8
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


class Member(NamedTuple):
    """A file in a tar file.

    Args:
        name: its path; where a tar file lies in the tar file, that file's name is a folder's.
        offset: where its bytes start, counted from the start of the outermost tar file.
        size: how many bytes it has.
    """

    name: str
    offset: int
    size: int


Arrays = dict[str, np.ndarray]


def indexed(
    paths: Sequence[str], kind: str, build: Callable[[str], Arrays]
) -> Iterator[tuple[str, Arrays]]:
    """Each tar file with its index, which is built where it is not kept from before.

    The indices lie in the user's cache folder, so that the data may be read-only. Each belongs to
    the path, size and time of change of its tar file, and is built again where these differ. Where
    the cache cannot be written, they are built every time.

    Args:
        paths: the tar files.
        kind: tells apart what different callers keep of the same file.
        build: makes the arrays of one file.

    Raises:
        InputError: a tar file is missing, compressed, damaged or cut off.
    """

    def index(path: str) -> Arrays:
        try:
            state = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        identity = np.array([_VERSION, state.st_size, state.st_mtime_ns])
        kept = _cache_file(path, kind)
        arrays = _load(kept, identity)
        if arrays is None:
            arrays = build(path)
            _save(kept, arrays, identity)
        return arrays

    with ThreadPoolExecutor(_THREADS) as pool:  # the time goes into waiting for headers
        yield from zip(paths, pool.map(index, paths), strict=True)


def members(file: BinaryIO, path: str) -> Iterator[Member]:
    """The regular files in a tar file but hidden ones, in their order; headers alone are read.

    Tar files within are entered. Links and sparse files have no bytes of their own, and are left
    out.

    Args:
        file: the open tar file.
        path: what errors call it.

    Raises:
        InputError: it is compressed, damaged or cut off.
    """
    start = file.read(8)
    file.seek(0)
    for magic, tool in _COMPRESSED.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is compressed, so that images in it can only be read one after the other;"
                f" unpack it once: {tool} < {path} > {Path(path).stem.removesuffix('.tar')}.tar"
            )
    yield from _members(file, path, 0, "")


def _members(file: BinaryIO, path: str, start: int, folder: str) -> Iterator[Member]:
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header
                at = tar.offset
                name = posixpath.normpath(posixpath.join(folder, entry.name.lstrip("/")))
                if not entry.isreg() or entry.issparse() or is_hidden(name):
                    continue
                offset = start + entry.offset_data
                if name.endswith(".tar"):
                    inner = tar.extractfile(entry)
                    assert inner is not None  # of a regular file
                    yield from _members(inner, path, offset, name)  # type: ignore[arg-type]
                else:
                    yield Member(name, offset, entry.size)
            at = tar.offset
            file.seek(at)
            if any(file.read(_BLOCK)):  # tarfile takes any block that is no header for the end
                raise tarfile.ReadError("there is neither a header nor an end")
    except tarfile.TarError as error:
        raise InputError(
            f"{path} is damaged or cut off at byte {start + at}: {error}; copy it again"
        ) from None


def _cache_file(path: str, kind: str) -> Path:
    key = hashlib.sha256(f"{os.path.realpath(path)}\n{kind}".encode(errors="surrogateescape"))
    return cache_folder() / "tar" / f"{Path(path).stem}-{key.hexdigest()[:16]}.npz"


def _load(kept: Path, identity: np.ndarray) -> Arrays | None:
    """The arrays, if they are there, whole, and those of the file as it is now."""
    try:
        with open(kept, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if np.array_equal(arrays.pop("identity", []), identity) else None


def _save(kept: Path, arrays: Arrays, identity: np.ndarray) -> None:
    """Keeps the arrays; processes may do so at the same time, so each writes a file of its own."""
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as draft:
            np.savez(Path(draft) / kept.name, **{**arrays, "identity": identity})  # type: ignore[arg-type]
            os.replace(Path(draft) / kept.name, kept)
