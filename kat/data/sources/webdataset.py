"""WebDataset shards on local disks: tar files of images, each with a file for its label."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.naming import IMAGE_EXTENSIONS, SPLIT_NAMES
from kat.data.numbered_classes import check_num_classes, numbered_classes, wrong_label
from kat.data.packed_strings import PackedStrings
from kat.data.sources.shard_layout import class_names, label_field, shards_by_split
from kat.data.sources.tar_index import Arrays, Member, TarIndex, indexed, members
from kat.data.sources.tar_members import TarSource
from kat.documents import parse_json
from kat.errors import InputError
from kat.files import open_input
from kat.text import either

IMAGES = tuple(extension[1:] for extension in IMAGE_EXTENSIONS)
"""Extensions of the image of a sample; the first counts if there are several."""

_NONE = -1


def open_webdataset(config: DataConfig, pattern: str, split: str) -> ImageDataset:
    """Opens the samples of a split, in the order of the shards.

    A sample is an image and a file of the same name with its class index: a ``.cls`` file that
    holds it as text, or a ``.json`` file that holds it in a field. The class names are the lines of
    classes.txt beside the shards; without that file they are 0, 1, ... up to
    ``config.num_classes``, or up to the largest label of all splits.

    Args:
        config: the settings: ``label_key`` names the field of ``.json`` files, None means ``.cls``
            files; ``bad_images="fail"`` refuses samples without an image or a label, which are
            ignored otherwise.
        pattern: a folder of shards, or their names with braces: ``PATH/train-{0000..0146}.tar``,
            ``PATH/{train,val}-{00..15}.tar``. A shard belongs to the split whose name is a word in
            the shard's name, unless timm's _info.json lists the shards.
        split: ``"train"`` or ``"val"``.

    Raises:
        InputError: a shard is missing, compressed, damaged or truncated, a sample occurs twice, or
            a label is not an index of the classes.
    """
    folder, splits = shards_by_split(pattern)
    paths = splits[split]
    if not paths:
        raise InputError(
            f"{pattern} names no shard of the {split} split: no name contains the word"
            f" {either(SPLIT_NAMES[split])}"
        )
    label_key = config.label_key or label_field(folder, split)
    shards = _indexed(paths, label_key)
    classes = class_names(folder)
    if classes is None:
        others = [path for name in splits if name != split for path in splits[name]]
        every = [*shards, *_indexed(others, label_key)]
        largest = max((int(arrays["labels"].max(initial=_NONE)) for arrays in every), default=_NONE)
        classes = numbered_classes(config.num_classes, largest, str(folder))
    check_num_classes(config.num_classes, len(classes), str(folder))
    return _dataset(paths, shards, classes, config.bad_images, folder)


def _indexed(paths: list[str], label_key: str | None) -> list[Arrays]:
    kind = f"samples {label_key or 'cls'}"
    return indexed(paths, kind, partial(_index, label_key))


def _dataset(
    paths: list[str], shards: list[Arrays], classes: list[str], bad_images: str, folder: Path
) -> ImageDataset:
    index = TarIndex.concatenate(shards)
    labels = np.concatenate([arrays["labels"] for arrays in shards])
    source = TarSource(paths, index, labels)
    wrong = np.flatnonzero(labels >= len(classes))
    if len(wrong):
        raise InputError(wrong_label(source.name(int(wrong[0])), labels[wrong[0]], len(classes)))
    missing = (labels == _NONE) | (index.sizes == _NONE)
    ignored = {
        source.name(sample): (
            "there is no image of this name" if index.sizes[sample] == _NONE else "it has no label"
        )
        for sample in np.flatnonzero(missing).tolist()
    }
    kept = np.flatnonzero(~missing)
    if not len(kept):
        raise InputError(
            f"{paths[0]} and the other shards hold no image ({', '.join(IMAGES)}) with a label"
            " (.cls, or a field of .json that data.label_key names)"
        )
    source = TarSource(paths, index.subset(kept), labels[kept])
    return ImageDataset(source, classes, ignored=ignored)


def _index(label_key: str | None, path: str) -> Arrays:
    """Name, offset, size and label of each image in a shard; -1 for what is missing."""
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    with open_input(path) as file:
        for key, files in _samples(file, path):
            image = next((files[extension] for extension in IMAGES if extension in files), None)
            label = _label(file, files, label_key, f"{path}/{key}")
            names.append(image.name if image else key)
            rows.append((image.offset, image.size, label) if image else (0, _NONE, label))
    packed = PackedStrings.pack(names)
    offsets, sizes, labels = np.array(rows, np.int64).reshape(-1, 3).T
    return {
        "names": packed.content,
        "ends": packed.ends,
        "offsets": offsets,
        "sizes": sizes,
        "labels": labels,
    }


def _samples(file: BinaryIO, path: str) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yields the key of each sample, and its files by extension: consecutive members of one key."""
    finished: set[str] = set()
    key: str | None = None
    files: dict[str, Member] = {}
    for member in members(file, path):
        if member.target:
            continue
        folder, name = posixpath.split(member.name)
        stem, _, extension = name.partition(".")
        next_key = posixpath.join(folder, stem)
        if next_key != key:
            if key is not None:
                yield key, files
                finished.add(key)
            key, files = next_key, {}
        if key in finished or extension.lower() in files:
            raise InputError(f"{path} holds the sample {key!r} twice")
        files[extension.lower()] = member
    if key is not None:
        yield key, files


def _label(file: BinaryIO, files: dict[str, Member], label_key: str | None, name: str) -> int:
    """The class index of a sample; -1 if it has none."""
    member = files.get("json" if label_key else "cls")
    if member is None:
        return _NONE
    file.seek(member.offset)
    label = parse_label(file.read(member.size), label_key, name)
    return _NONE if label is None else label


def parse_label(text: bytes, label_key: str | None, name: str) -> int | None:
    """Reads the class index in a ``.cls`` file, or in a field of a ``.json`` file.

    Args:
        text: content of the file.
        label_key: name of the field; None for a ``.cls`` file.
        name: name of the sample in errors.

    Returns:
        The class index; None if the field is missing.

    Raises:
        InputError: the label is not a class index.
    """
    try:
        value = parse_json(text, name).get(label_key) if label_key else int(text)
    except (ValueError, AttributeError):
        value = text[:40]
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        field = f"the field {label_key!r} of .json" if label_key else ".cls"
        raise InputError(f"{name}: {field} must hold a class index, got {value!r}")
    return value
