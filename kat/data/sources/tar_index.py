"""The offsets of the members of tar files, read from the headers once and cached."""

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

from kat.data.naming import is_hidden
from kat.data.packed_strings import PackedStrings
from kat.errors import InputError
from kat.files import cache_folder, open_input

_VERSION = 4
_BLOCK = 512
_THREADS = 8
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


def visible_tars(folder: Path) -> list[str]:
    """The tar files in a folder, sorted, without hidden ones, such as ``._a.tar`` of macOS."""
    return sorted(str(path) for path in folder.glob("*.tar") if not is_hidden(path.name))


class Member(NamedTuple):
    """A file in a tar file.

    Args:
        name: path of the file; an inner tar file counts as a folder.
        offset: where its bytes start in the outermost tar file.
        size: number of its bytes.
        target: of a link the path of its file, which may be another link or missing; a link has no
            bytes of its own, and the size -1.
    """

    name: str
    offset: int
    size: int
    target: str = ""


Arrays = dict[str, np.ndarray]
"""The index of a tar file: the names of its files (``names`` and ``ends`` of PackedStrings), their
``offsets`` and ``sizes``, and what else its format has."""


class TarIndex(NamedTuple):
    """The offsets of files in several tar files.

    Args:
        names: names of the files in their tar files.
        shards: (files,) int32, number of the tar file of each.
        offsets: (files,) int64, where the bytes of each start.
        sizes: (files,) int64, number of bytes of each.
    """

    names: PackedStrings
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    @classmethod
    def concatenate(cls, indices: Sequence[Arrays]) -> TarIndex:
        """The joint index of several tar files."""
        names = PackedStrings.concatenate([PackedStrings(a["names"], a["ends"]) for a in indices])
        counts = [len(arrays["sizes"]) for arrays in indices]
        shards = np.repeat(np.arange(len(indices), dtype=np.int32), counts)
        offsets, sizes = (
            np.concatenate([a[name] for a in indices]) for name in ("offsets", "sizes")
        )
        return cls(names, shards, offsets, sizes)

    def subset(self, chosen: np.ndarray) -> TarIndex:
        """The index of some of the files."""
        names = self.names
        if len(chosen) < len(names):
            names = PackedStrings.pack(names[file] for file in chosen.tolist())
        return TarIndex(names, self.shards[chosen], self.offsets[chosen], self.sizes[chosen])


def indexed(paths: Sequence[str], kind: str, build: Callable[[str], Arrays]) -> list[Arrays]:
    """Returns the index of each tar file, which is built unless it is in the cache.

    The indices are in the cache folder of the user, so that the data may be read-only. An index
    belongs to the path, size and modification time of its tar file, and is built again if these
    change. If the cache cannot be written, indices are built every time.

    Args:
        paths: paths of the tar files.
        kind: distinguishes the indices that different callers make of the same file.
        build: makes the index of one file.

    Raises:
        InputError: a tar file is missing, compressed, damaged or truncated.
    """

    def index(path: str) -> Arrays:
        try:
            state = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        identity = np.array([_VERSION, state.st_size, state.st_mtime_ns])
        cached = _cache_file(path, kind)
        arrays = _load(cached, identity)
        if arrays is None:
            arrays = build(path)
            _save(cached, arrays, identity)
        return arrays

    with ThreadPoolExecutor(_THREADS) as pool:  # most of the time is spent waiting for headers
        return list(pool.map(index, paths))


def members(file: BinaryIO, path: str) -> Iterator[Member]:
    """Yields the regular files and the links in a tar file, in order; only headers are read.

    Inner tar files are entered. Hidden files are left out, and so are sparse files, which have no
    contiguous bytes of their own.

    Args:
        file: the open tar file.
        path: name of the tar file in errors.

    Raises:
        InputError: the tar file is compressed, damaged or truncated.
    """
    start = file.read(8)
    file.seek(0)
    for magic, tool in _COMPRESSED.items():
        if start.startswith(magic):
            raise InputError(
                f"{path} is compressed, so its images can only be read in order; unpack it once:"
                f" {tool} < {path} > {Path(path).stem.removesuffix('.tar')}.tar"
            )
    yield from _members(file, path, 0, "")


def _members(file: BinaryIO, path: str, start: int, folder: str) -> Iterator[Member]:
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                at = tar.offset
                name = posixpath.normpath(posixpath.join(folder, entry.name.lstrip("/")))
                if is_hidden(name):
                    continue
                if entry.islnk() or entry.issym():
                    beside = folder if entry.islnk() else posixpath.dirname(name)
                    target = posixpath.normpath(posixpath.join(beside, entry.linkname))
                    yield Member(name, 0, -1, target)
                    continue
                if not entry.isreg() or entry.issparse():
                    continue
                offset = start + entry.offset_data
                if name.endswith(".tar"):
                    inner = tar.extractfile(entry)
                    assert inner is not None  # a regular file
                    yield from _members(inner, path, offset, name)  # type: ignore[arg-type]
                else:
                    yield Member(name, offset, entry.size)
            at = tar.offset
            file.seek(at)
            if any(file.read(_BLOCK)):  # to tarfile, any block without a header is the end
                raise tarfile.ReadError("there is neither a header nor an end")
    except tarfile.TarError as error:
        raise InputError(
            f"{path} is damaged or truncated at byte {start + at}: {error}; copy it again"
        ) from None


def _cache_file(path: str, kind: str) -> Path:
    key = hashlib.sha256(f"{os.path.realpath(path)}\n{kind}".encode(errors="surrogateescape"))
    return cache_folder() / "tar" / f"{Path(path).stem}-{key.hexdigest()[:16]}.npz"


def _load(cached: Path, identity: np.ndarray) -> Arrays | None:
    """The cached arrays; None if they are missing, damaged, or those of a file that has changed."""
    try:
        with open_input(cached) as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # InputError is a ValueError
        return None
    return arrays if np.array_equal(arrays.pop("identity", []), identity) else None


def _save(cached: Path, arrays: Arrays, identity: np.ndarray) -> None:
    """Caches the arrays. Several processes may do so at once, so each writes its own file first."""
    with suppress(OSError):
        cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)  # it may hold libraries too
        cached.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached.parent) as draft:
            np.savez(Path(draft) / cached.name, **{**arrays, "identity": identity})  # type: ignore[arg-type]
            os.replace(Path(draft) / cached.name, cached)
