"""Images in tar files, at known offsets; and the layout of one folder per class."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from kat.data.dataset import ImageDataset
from kat.data.naming import NOT_AN_IMAGE, SPLIT_NAMES, is_hidden, is_image, sorted_classes
from kat.data.packed_strings import PackedStrings
from kat.errors import InputError, UnreadableFile
from kat.files import cache_folder, open_input, reason_of, replacing

_VERSION = 6
"""Version of the indices in the cache."""


class Member(NamedTuple):
    """A file in a tar file.

    Args:
        name: path of the file; an inner tar file counts as a folder.
        offset: where its bytes start in the outermost tar file.
        size: number of its bytes; -1 for a link, which has none.
        label: its class index; -1 if it has none.
    """

    name: str
    offset: int
    size: int
    label: int = -1


@dataclass(frozen=True)
class TarSource:
    """Images in tar files.

    Args:
        paths: paths of the tar files.
        names: paths of the images in them.
        shards: (images,) int32, number of the tar file of each.
        offsets, sizes: (images,) int64, where the bytes of each start, and how many there are.
        labels: (images,) int64, class indices.
    """

    paths: Sequence[str]
    names: PackedStrings
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the path of the tar file, followed by the path of the image in it."""
        return f"{self.paths[self.shards[index]]}/{self.names[index]}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the bytes of the image and the label."""
        path, size = self.paths[self.shards[index]], int(self.sizes[index])
        with open_input(path) as file:
            file.seek(self.offsets[index])
            content = file.read(size)
        if len(content) < size:
            raise UnreadableFile(self.name(index), f"{path} ends within it")
        return content, int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """Return the paths of the images in their tar files, and the labels."""
        return [*self.names.arrays, self.labels]

    def subset(self, chosen: np.ndarray, labels: np.ndarray) -> TarSource:
        """Return some of the images, with these labels."""
        names = PackedStrings.pack(self.names[index] for index in chosen.tolist())
        return replace(
            self,
            names=names,
            shards=self.shards[chosen],
            offsets=self.offsets[chosen],
            sizes=self.sizes[chosen],
            labels=labels,
        )


def open_tar(path: str, split: str) -> ImageDataset:
    """Open a split: PATH/train.tar, or all tar files in the folder PATH/train; likewise val.

    The class of an image is the folder that it is in within the tar file; an inner tar file counts
    as a folder. If a split has several tar files, the class of an image outside of any folder is
    the name of its tar file. Classes are sorted by name.

    Raises:
        InputError: a tar file is missing, compressed, damaged or truncated, or an image has no
            class.
    """
    root = Path(path)
    for name in SPLIT_NAMES[split]:
        whole = root / f"{name}.tar"
        several = tars_in(root / name)
        paths = [str(whole)] if whole.is_file() else several
        if paths:
            break
    else:
        names = ", ".join(f"{name}.tar" for name in SPLIT_NAMES[split])
        raise InputError(f"{root} has none of {names}, nor a folder of that name with tar files")
    source = indexed(paths, "members", _newest)
    classes: dict[str, int] = {}
    ignored: dict[str, str] = {}
    labels = np.full(len(source), -1)
    for number, (shard, name) in enumerate(zip(source.shards, source.names, strict=True)):
        label = posixpath.basename(posixpath.dirname(name)).removesuffix(".tar")
        if paths == several:
            label = label or Path(paths[shard]).stem
        if not is_image(name):
            ignored[source.name(number)] = NOT_AN_IMAGE
        elif not label:
            ignored[source.name(number)] = "it is in no folder, whose name would be its class"
        elif source.sizes[number] < 0:
            ignored[source.name(number)] = "it is a link to another file"
        else:
            labels[number] = classes.setdefault(label, len(classes))
    ordered = sorted_classes(classes)
    rank = np.argsort([classes[name] for name in ordered])
    images = np.flatnonzero(labels >= 0)
    return ImageDataset(source.subset(images, rank[labels[images]]), ordered, ignored=ignored)


def tars_in(folder: Path) -> list[str]:
    """Return the tar files in a folder, sorted, without hidden ones: ``._a.tar`` of macOS."""
    return sorted(str(path) for path in folder.glob("*.tar") if not is_hidden(path.name))


def _newest(file: BinaryIO, path: str) -> list[Member]:
    """Return the newest of the members of each name, as tar unpacks them."""
    return [*{member.name: member for member in members(file, path)}.values()]


def indexed(
    paths: Sequence[str], kind: str, build: Callable[[BinaryIO, str], Sequence[Member]]
) -> TarSource:
    """Return the files in tar files, by an index that is built unless it is in the cache.

    The indices are in the cache folder of the user, so that the data may be read-only. An index
    belongs to the path, size and modification time of its tar file; another is built if these
    change. If the cache cannot be written, indices are built every time.

    Args:
        paths: paths of the tar files.
        kind: distinguishes the indices that different callers make of the same file.
        build: lists the files in an open tar file of this path.

    Raises:
        InputError: a tar file is missing, compressed, damaged or truncated.
    """

    def index(path: str) -> dict[str, np.ndarray]:
        with open_input(path) as file:
            state = os.fstat(file.fileno())
            identity = (os.path.realpath(path), kind, _VERSION, state.st_size, state.st_mtime_ns)
            key = hashlib.sha256(repr(identity).encode()).hexdigest()
            cached = cache_folder() / "tar" / f"{Path(path).stem}-{key[:16]}.npz"
            with (
                suppress(OSError, ValueError, EOFError, zipfile.BadZipFile),
                open_input(cached) as stored,
            ):
                return dict(np.load(stored, allow_pickle=False))
            found = build(file, path)
        names = PackedStrings.pack(member.name for member in found)
        rows = np.array([member[1:] for member in found], np.int64).reshape(-1, 3)
        arrays: dict[str, Any] = {"names": names.content, "ends": names.ends, "rows": rows}
        with suppress(OSError):
            cache_folder().mkdir(mode=0o700, parents=True, exist_ok=True)  # it may hold libraries
            cached.parent.mkdir(exist_ok=True)
            with replacing(cached) as draft:
                np.savez(draft, **arrays)
        return arrays

    with ThreadPoolExecutor(8) as pool:  # most of the time is spent waiting for headers
        shards = list(pool.map(index, paths))
    names = PackedStrings.concatenate([PackedStrings(a["names"], a["ends"]) for a in shards])
    counts = [len(arrays["rows"]) for arrays in shards]
    numbers = np.repeat(np.arange(len(paths), dtype=np.int32), counts)
    offsets, sizes, labels = np.concatenate([arrays["rows"] for arrays in shards]).T
    return TarSource(paths, names, numbers, offsets, sizes, labels)


def members(file: BinaryIO, path: str, start: int = 0, folder: str = "") -> Iterator[Member]:
    """Yield the regular files and the links in a tar file, in order; only headers are read.

    Inner tar files are entered. Hidden files are left out, and so are sparse files, which have no
    contiguous bytes of their own.

    Args:
        file: the open tar file.
        path: name of the outermost tar file in errors.
        start, folder: where an inner tar file starts in it, and its path.

    Raises:
        InputError: the tar file is compressed, damaged or truncated.
    """
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
                    yield Member(name, 0, -1)
                elif entry.isreg() and not entry.issparse():
                    offset = start + entry.offset_data
                    inner = tar.extractfile(entry) if name.endswith(".tar") else None
                    if inner is None:
                        yield Member(name, offset, entry.size)
                    else:
                        yield from members(inner, path, offset, name)  # type: ignore[arg-type]
            at = tar.offset
            file.seek(at)
            damage = any(file.read(512)) and "neither a header nor an end"
    except (tarfile.TarError, OSError, OverflowError) as error:  # of a size beyond all files
        damage = reason_of(error)
    if damage:  # to tarfile, any block without a header is the end
        where = f"{path} is compressed, damaged or truncated at byte {start + at}"
        raise InputError(f"{where}: {damage}; unpack it once, or copy it again")
