"""Images in tar files, one folder per class, as timm's ``ReaderImageInTar`` reads them."""

from __future__ import annotations

import posixpath
from pathlib import Path

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.naming import (
    NOT_AN_IMAGE,
    SPLIT_NAMES,
    is_image,
    sorted_classes,
)
from kat.data.packed_strings import PackedStrings
from kat.data.sources.tar_index import Arrays, Member, TarIndex, indexed, members, visible_tars
from kat.data.sources.tar_members import TarSource
from kat.errors import InputError
from kat.files import open_input
from kat.text import either, listing


def open_tar(config: DataConfig, path: str, split: str) -> ImageDataset:
    """Opens a split: PATH/train.tar, or all tar files in the folder PATH/train; likewise val.

    The class of an image is the folder that it is in within the tar file; an inner tar file counts
    as a folder. If a split has several tar files, the class of an image outside of any folder is
    the name of its tar file. Classes are sorted by name.

    Raises:
        InputError: a tar file is missing, compressed, damaged or truncated, or an image has no
            class.
    """
    paths, several = _tars_of_split(Path(path), split)
    index = TarIndex.concatenate(indexed(paths, "members", _index))
    classes: dict[str, int] = {}
    ignored: dict[str, str] = {}
    labels = np.full(len(index.names), -1)
    for number, (shard, name) in enumerate(zip(index.shards, index.names, strict=True)):
        if not is_image(name):
            ignored[f"{paths[shard]}/{name}"] = NOT_AN_IMAGE
            continue
        if index.sizes[number] < 0:
            ignored[f"{paths[shard]}/{name}"] = "it is a link to a file that is not in the tar file"
            continue
        label = posixpath.basename(posixpath.dirname(name)).removesuffix(".tar")
        if not label and not several:
            raise InputError(
                f"{paths[shard]}: {name!r} is in no folder, whose name would be its class"
            )
        label = label or Path(paths[shard]).stem
        labels[number] = classes.setdefault(label, len(classes))
    if not classes:
        raise InputError(f"no image in {listing(paths)}")
    ordered = sorted_classes(classes)
    rank = np.empty(len(ordered), np.int64)
    rank[[classes[name] for name in ordered]] = np.arange(len(ordered))
    images = np.flatnonzero(labels >= 0)
    source = TarSource(paths, index.subset(images), rank[labels[images]])
    return ImageDataset(source, ordered, ignored=ignored)


def _tars_of_split(root: Path, split: str) -> tuple[list[str], bool]:
    """The tar files of a split, and whether they are a folder of several."""
    if not root.is_dir():
        raise InputError(
            f"{str(root)!r} is not a folder; give the one with train.tar and val.tar, or with"
            " folders train and val of tar files"
        )
    for name in SPLIT_NAMES[split]:
        if (root / f"{name}.tar").is_file():
            return [str(root / f"{name}.tar")], False
        paths = visible_tars(root / name)
        if paths:
            return paths, True
    files = either(f"{name}.tar" for name in SPLIT_NAMES[split])
    compressed = [path.name for path in sorted(root.glob("*.tar.*"))]
    hint = f"; {compressed[0]} is compressed: unpack it to a .tar" if compressed else ""
    raise InputError(f"{root} has neither {files} nor a folder of that name with tar files{hint}")


def _resolved(found: list[Member]) -> list[Member]:
    """The members, with the bytes of its file for each link whose file is among them."""
    links = {member.name: member.target for member in found if member.target}
    if not links:
        return found
    files = {member.name: member for member in found if not member.target}
    resolved = []
    for member in found:
        name = member.name
        for _ in links:  # at most: links may form a circle
            if name not in links:
                break
            name = links[name]
        file = files.get(name, member)
        resolved.append(member._replace(offset=file.offset, size=file.size))
    return resolved


def _index(path: str) -> Arrays:
    with open_input(path) as file:
        last = {member.name: member for member in members(file, path)}  # the newest, as tar has it
        found = _resolved(list(last.values()))
    names = PackedStrings.pack(member.name for member in found)
    return {
        "names": names.content,
        "ends": names.ends,
        "offsets": np.array([member.offset for member in found], np.int64),
        "sizes": np.array([member.size for member in found], np.int64),
    }
