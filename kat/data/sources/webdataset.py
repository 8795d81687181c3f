"""WebDataset shards on local disks: tar files in which an image and its label lie side by side."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kat.data.dataset import ImageSet
from kat.data.packed import PackedStrings
from kat.data.sources.members import MemberSource
from kat.data.sources.shard_layout import class_names, label_field, shards_by_split
from kat.data.sources.tar_index import Arrays, Member, indexed, members
from kat.data.splits import SPLIT_NAMES, check_ignored
from kat.errors import InputError
from kat.text import either

IMAGES = ("jpg", "jpeg", "png", "webp")
"""What an image in a sample may end in; the first counts where there are several."""

_NONE = -1


def open_shards(
    pattern: str,
    split: str,
    bad_images: str,
    *,
    label_key: str | None = None,
    num_classes: int | None = None,
) -> ImageSet:
    """The samples of a split, in the order of the shards, each with its bytes' place in one.

    A sample is an image and, beside it under the same name, a ``.cls`` file that holds its class
    index as text, or a ``.json`` file with a field for it. The names of the classes come from
    classes.txt beside the shards (one a line), else they are 0, 1, ... up to ``num_classes``, or
    the largest label of all splits.

    Args:
        pattern: a folder of shards, or their names with braces: ``PATH/train-{0000..0146}.tar``,
            ``PATH/{train,val}-{00..15}.tar``. A shard is of the split whose name is a word of its
            own; _info.json, as timm has it, may say otherwise.
        split: ``"train"`` or ``"val"``.
        bad_images: ``"fail"`` refuses samples without label or image; they are passed over else.
        label_key: the field of ``.json`` files that holds the label; None: ``.cls`` files do.
        num_classes: how many classes there are, where no classes.txt says so.

    Raises:
        InputError: a shard is missing, compressed, damaged or cut off, a sample occurs twice, or a
            label is not an index of the classes.
    """
    folder, splits = shards_by_split(pattern)
    paths = splits[split]
    if not paths:
        raise InputError(
            f"{pattern} names no shard of the {split} split: none whose name has the word"
            f" {either(SPLIT_NAMES[split])}"
        )
    key = label_key or label_field(folder, split)
    shards = [arrays for _, arrays in _indexed(paths, key)]
    classes = class_names(folder)
    if classes is None:
        others = [path for name in splits if name != split for path in splits[name]]
        every = [*shards, *(arrays for _, arrays in _indexed(others, key))]
        largest = max((int(arrays["labels"].max(initial=_NONE)) for arrays in every), default=_NONE)
        classes = [str(index) for index in range(num_classes or largest + 1)]
    return _image_set(paths, shards, classes, bad_images, folder)


def _indexed(paths: list[str], label_key: str | None) -> Iterator[tuple[str, Arrays]]:
    kind = f"samples {label_key or 'cls'}"
    return indexed(paths, kind, partial(_index, label_key))


def _image_set(
    paths: list[str], shards: list[Arrays], classes: list[str], bad_images: str, folder: Path
) -> ImageSet:
    names = PackedStrings.joined([PackedStrings(a["names"], a["ends"]) for a in shards])
    offsets, sizes, labels = (
        np.concatenate([arrays[name] for arrays in shards])
        for name in ("offsets", "sizes", "labels")
    )
    counts = [len(arrays["labels"]) for arrays in shards]
    numbers = np.repeat(np.arange(len(shards), dtype=np.int32), counts)
    wrong = np.flatnonzero(labels >= len(classes))
    if len(wrong):
        index = int(wrong[0])
        raise InputError(
            f"{paths[numbers[index]]}/{names[index]} has the label {labels[index]}, but the"
            f" {len(classes)} classes are 0 to {len(classes) - 1}"
        )
    lacking = (labels == _NONE) | (sizes == _NONE)
    ignored = {
        f"{paths[numbers[index]]}/{names[index]}": (
            "there is no image of this name" if sizes[index] == _NONE else "it has no label"
        )
        for index in np.flatnonzero(lacking).tolist()
    }
    check_ignored(ignored, folder, bad_images)
    kept = np.flatnonzero(~lacking)
    if not len(kept):
        raise InputError(
            f"{paths[0]} and the other shards hold no image ({', '.join(IMAGES)}) with a label"
            " (.cls, or a field of .json that data.label_key names)"
        )
    if ignored:
        names = PackedStrings.of(names[index] for index in kept.tolist())
    source = MemberSource(paths, names, numbers[kept], offsets[kept], sizes[kept], labels[kept])
    return ImageSet(source, classes, ignored=ignored)


def _index(label_key: str | None, path: str) -> Arrays:
    """The samples of a shard: name of the image, its place, label; -1 for what is missing."""
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    with open(path, "rb") as file:
        for key, files in _samples(file, path):
            image = next((files[ending] for ending in IMAGES if ending in files), None)
            label = _label(file, files, label_key, f"{path}/{key}")
            names.append(image.name if image else key)
            rows.append((image.offset, image.size, label) if image else (0, _NONE, label))
    packed = PackedStrings.of(names)
    offsets, sizes, labels = np.array(rows, np.int64).reshape(-1, 3).T
    return {
        "names": packed.content,
        "ends": packed.ends,
        "offsets": offsets,
        "sizes": sizes,
        "labels": labels,
    }


def _samples(file: BinaryIO, path: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Each sample's key and files by their ending: members that follow each other with one key."""
    finished: set[str] = set()
    key: str | None = None
    files: dict[str, Member] = {}
    for member in members(file, path):
        folder, name = posixpath.split(member.name)
        stem, _, ending = name.partition(".")
        now = posixpath.join(folder, stem)
        if now != key:
            if key is not None:
                yield key, files
                finished.add(key)
            key, files = now, {}
        if now in finished or ending.lower() in files:
            raise InputError(f"{path} holds the sample {now!r} twice")
        files[ending.lower()] = member
    if key is not None:
        yield key, files


def _label(file: BinaryIO, files: dict[str, Member], label_key: str | None, name: str) -> int:
    """The label of a sample; -1 if it has none."""
    member = files.get("json" if label_key else "cls")
    if member is None:
        return _NONE
    file.seek(member.offset)
    label = parse_label(file.read(member.size), label_key, name)
    return _NONE if label is None else label


def parse_label(text: bytes, label_key: str | None, name: str) -> int | None:
    """The class index that a ``.cls`` file or a field of a ``.json`` file holds.

    Args:
        text: the file.
        label_key: the field; None: it is a ``.cls`` file.
        name: what the error calls the sample.

    Returns:
        None where the field is missing.

    Raises:
        InputError: it is no class index.
    """
    try:
        value = json.loads(text).get(label_key) if label_key else int(text)
    except (ValueError, AttributeError):
        value = text
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        field = f"the field {label_key!r} of .json" if label_key else ".cls"
        raise InputError(f"{name}: {field} must hold a class index, got {value!r}")
    return value
