"""The record of a run's data: its place and a digest of its contents, for a later comparison."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.text import quoted


def data_record(config: DataConfig, train: ImageDataset, val: ImageDataset) -> dict[str, Any]:
    """Return the record of a run's data as JSON types.

    - ``paths``: the absolute path in the place of each relative one, for :func:`located`.
    - ``classes``, and by split the number of ``images`` and a ``digest``, for :func:`differences`.
      The digest is of the names of the files (relative to the folder of the data, which may
      move) with their labels, boxes, or masks' names; of Hugging Face tables the labels alone.
      Files are not read.

    Examples:
        >>> from kat.data import DataConfig, data_record, open_split
        >>> config = DataConfig("folder:photos")
        >>> record = data_record(config, open_split(config, "train"), open_split(config, "val"))
        >>> record["classes"]
        ['cat', 'dog']
    """
    return {
        "paths": absolute_paths(config),
        "classes": train.classes,
        "train": split_record(train),
        "val": split_record(val),
    }


def split_record(data: ImageDataset) -> dict[str, Any]:
    """Return the number of images of a split, and their digest; see :func:`data_record`."""
    return {"images": len(data), "digest": _digest(data)}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare a dataset with an earlier record: a phrase for each difference.

    Examples:
        >>> from kat.data import DataConfig, data_record, differences, open_split
        >>> config = DataConfig("folder:photos")
        >>> record = data_record(config, open_split(config, "train"), open_split(config, "val"))
        >>> differences(record, record)
        []
        >>> differences(record, record | {"classes": ["cat", "wolf"]})
        ["class 'dog' missing", "class 'wolf' new"]
    """
    found = _class_differences(before["classes"], now["classes"])
    for split in ("train", "val"):
        old, new = before[split], now[split]
        if old.get("images") != new["images"]:
            had = old.get("images")
            found.append(f"the {split} split had {had} images and has {new['images']}")
        elif old.get("digest") != new["digest"]:
            found.append(f"the {split} split has other files, other labels or another order")
    return found


def located(data: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run's data for use in any working directory.

    A relative path becomes the recorded one, unless nothing is there any more: a project that has
    moved as a whole keeps its relative paths.

    Args:
        data: fields of :class:`DataConfig`.
        record: the record of the run's data.

    Examples:
        >>> from kat.data import DataConfig, data_record, located, open_split
        >>> config = DataConfig("folder:photos")
        >>> record = data_record(config, open_split(config, "train"), open_split(config, "val"))
        >>> located({"name": "folder:photos"}, record)["name"]
        'folder:...photos'
    """
    found = dict(data)
    for setting in ("name", "root"):
        path = record.get("paths", {}).get(data.get(setting))
        if path is not None and _exists(setting, path):
            found[setting] = path
    return found


def absolute_paths(config: DataConfig) -> dict[str, str]:
    """Return the settings that hold a relative path, each with the absolute one in its place."""
    found = {}
    kind, _, path = config.name.partition(":")
    is_name = kind == "hf" and not os.path.exists(path)
    if path and not is_name and not os.path.isabs(path):
        found[config.name] = f"{kind}:{os.path.abspath(path)}"
    if config.root is not None and not os.path.isabs(config.root):
        found[config.root] = os.path.abspath(config.root)
    return found


def _exists(setting: str, value: str) -> bool:
    """Return True if the path in a setting exists; for a pattern with braces its folder."""
    whole = value.partition(":")[2] if setting == "name" else value
    path, braces, _ = whole.partition("{")
    return os.path.exists(os.path.dirname(path) if braces else path)


def _class_differences(before: list[str], now: list[str]) -> list[str]:
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    found = [f"{quoted(gone, 'class', 'classes')} missing"] if gone else []
    found += [f"{quoted(new, 'class', 'classes')} new"] if new else []
    return found or (["the classes have another order"] if before != now else [])


def _digest(data: ImageDataset) -> str:
    digest = hashlib.sha256()
    for part in data.source.listing():
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
