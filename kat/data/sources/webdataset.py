"""WebDataset shards on local disks: tar files of images, each with a file for its label."""

from __future__ import annotations

import posixpath
import re
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.naming import IMAGE_EXTENSIONS, SPLIT_NAMES, check_unique, class_names
from kat.data.sources.tar import Member, indexed, members, tars_in
from kat.documents import parse_json
from kat.errors import InputError
from kat.files import read_text

IMAGES = tuple(extension[1:] for extension in IMAGE_EXTENSIONS)
"""Extensions of the image of a sample; the first counts if there are several."""


def open_webdataset(config: DataConfig, pattern: str, split: str) -> ImageDataset:
    """Open the samples of a split, in the order of the shards.

    A sample is an image and a file of the same name with its class index: a ``.cls`` file that
    holds it as text, or a ``.json`` file that holds it in the field ``config.label_key``. The class
    names are the lines of classes.txt beside the shards; without that file they are 0, 1, ... up to
    ``config.num_classes``, or up to the largest label of all splits.

    Args:
        config: the settings.
        pattern: a folder of shards, or their names with braces: ``PATH/train-{0000..0146}.tar``,
            ``PATH/{train,val}-{00..15}.tar``. A shard belongs to the split whose name is a word in
            the shard's name.
        split: ``"train"`` or ``"val"``.

    Raises:
        InputError: a shard is missing, compressed, damaged or truncated, a sample occurs twice, or
            a label is not an index of the classes.
    """
    found = tars_in(Path(pattern)) if Path(pattern).is_dir() else expand_braces(pattern)
    splits = {name: _shards_of_split(found, name) for name in SPLIT_NAMES}
    if not splits[split]:
        raise InputError(
            f"{pattern} names no shard of the {split} split: no name contains one of"
            f" the words {', '.join(SPLIT_NAMES[split])}"
        )
    kind, build = f"samples {config.label_key or 'cls'}", partial(_samples, config.label_key)
    listed = Path(splits[split][0]).parent / "classes.txt"
    names = read_text(listed).strip().splitlines() if listed.is_file() else []
    check_unique(names, listed, "class", "classes")
    every = {split: splits[split]} if names else splits
    sources = {name: indexed(every[name], kind, build) for name in every if every[name]}
    largest = max(int(each.labels.max(initial=-1)) for each in sources.values())
    classes = class_names(names, config.num_classes, largest, pattern)
    source = sources[split]
    usable = (source.labels >= 0) & (source.sizes >= 0)
    ignored = {}
    for sample in np.flatnonzero(~usable).tolist():
        has_image = source.sizes[sample] >= 0
        reason = "it has no label" if has_image else "there is no image of this name"
        ignored[source.name(sample)] = reason
    kept = np.flatnonzero(usable)
    return ImageDataset(source.subset(kept, source.labels[kept]), classes, ignored=ignored)


def _shards_of_split(paths: list[str], split: str) -> list[str]:
    """Return the shards with the first of the split's names that any of them has."""
    words = {path: re.split("[^a-z]+", Path(path).stem.lower()) for path in paths}
    for name in SPLIT_NAMES[split]:
        found = [path for path in paths if name in words[path]]
        if found:
            return found
    return []


def expand_braces(pattern: str) -> list[str]:
    """Expand braces: ``a-{08..10}.tar`` to a-08.tar, a-09.tar, a-10.tar; ``{a,b}`` to a, b."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    first, dots, last = match[1].partition("..")
    numbers = range(int(first), int(last) + 1) if dots else ()
    words = [str(number).zfill(len(first)) for number in numbers] or match[1].split(",")
    expanded = [expand_braces(pattern.replace(match[0], word, 1)) for word in words]
    return list(chain.from_iterable(expanded))


def _samples(label_key: str | None, file: BinaryIO, path: str) -> list[Member]:
    """List the image of each sample with its label; the size is -1 if there is no image."""
    found = []
    for key, files in _groups(file, path).items():
        image = next((files[extension] for extension in IMAGES if extension in files), None)
        text = files.get("json" if label_key else "cls")
        label = -1
        if text is not None:
            file.seek(text.offset)
            label = parse_label(file.read(text.size), label_key, f"{path}/{key}")
        found.append((image or Member(key, 0, -1))._replace(label=label))
    return found


def _groups(file: BinaryIO, path: str) -> dict[str, dict[str, Member]]:
    """Return the files of each sample by extension: consecutive members of one key."""
    groups: dict[str, dict[str, Member]] = {}
    last = ""
    for member in members(file, path):
        if member.size < 0:
            continue
        folder, name = posixpath.split(member.name)
        stem, _, extension = name.partition(".")
        key, extension = posixpath.join(folder, stem), extension.lower()
        if extension in groups.get(key, {}) or (key in groups and key != last):
            raise InputError(f"{path} holds the sample {key!r} twice")
        groups.setdefault(key, {})[extension] = member
        last = key
    return groups


def parse_label(text: bytes, label_key: str | None, name: str) -> int:
    """Read the class index in a ``.cls`` file, or in a field of a ``.json`` file.

    Args:
        text: content of the file.
        label_key: name of the field; None for a ``.cls`` file.
        name: name of the sample in errors.

    Returns:
        The class index; -1 if the field is missing.

    Raises:
        InputError: the label is not a class index.
    """
    try:
        value = parse_json(text, name).get(label_key) if label_key else int(text)
    except (ValueError, AttributeError):
        value = text[:40]
    if value is None:
        return -1
    if not isinstance(value, int) or not 0 <= value < 2**62:
        field = f"the field {label_key!r} of .json" if label_key else ".cls"
        raise InputError(f"{name}: {field} must hold a class index, got {value!r}")
    return value
