"""Hugging Face datasets on this machine: saved folders, parquet and image folders, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import read_image
from kat.data.naming import chosen_column, class_names
from kat.data.sources.holdout import is_held_out, part_of_training
from kat.errors import InputError, first_line, unknown
from kat.extras import require


def open_huggingface(config: DataConfig, name: str, split: str) -> ImageDataset:
    """Open a split of a dataset of the package ``datasets``.

    The images are in the only column of images and the labels in the only column of ``ClassLabel``,
    whose names are the classes. ``config.image_key`` and ``config.label_key`` choose among several.
    If the labels are numbers without names, the classes are 0, 1, ... up to ``config.num_classes``,
    or up to the largest label. If they are text, the classes are the sorted labels.

    Args:
        config: the settings: ``root`` is the cache folder, ``train_split`` and ``val_split`` name
            the splits, and ``download`` allows the use of the network.
        name: a folder that ``save_to_disk`` has written, a folder of files that ``load_dataset``
            reads (parquet, arrow, images), or the name of a dataset.
        split: ``"train"`` or ``"val"``.

    Raises:
        InputError: the package is missing, the dataset cannot be opened or has no such split, or
            the columns of images and labels are ambiguous.
    """
    datasets = require("datasets", repr(config.name))
    saved = any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json"))
    offline = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = offline or not config.download  # it asks for cached ones, too
    try:
        with opened_elsewhere(config):
            if saved:
                splits = datasets.load_from_disk(name)
            else:
                splits = datasets.load_dataset(name, cache_dir=config.root)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    if not isinstance(splits, dict):  # one split, which need not know its name
        splits = {str(splits.split or config.train_split): splits}
    has_val = config.val_split in splits or config.val_split != DataConfig.val_split
    holds_out = is_held_out(config, has_val)
    option = "train_split" if split == "train" or holds_out else "val_split"
    wanted = getattr(config, option)
    if wanted not in splits:
        raise unknown(f"split (data.{option}) of {config.name!r}", wanted, splits)
    rows = splits[wanted]
    image = _column(rows, name, config.image_key, "image", datasets.Image)
    label = _column(rows, name, config.label_key, "label", datasets.ClassLabel)
    values = np.asarray(rows.select_columns([label]).with_format("numpy")[:][label])
    names = getattr(rows.features[label], "names", None) or []
    if values.ndim == 1 and values.dtype.kind in "US":
        names, values = np.unique(values, return_inverse=True)
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.min(initial=0) < 0:
        raise InputError(
            f"the column {label!r} of {name!r} must hold a class index or name in every row; its"
            f" type is {rows.features[label]}"
        )
    classes = class_names(
        [*map(str, names)], config.num_classes, int(values.max(initial=-1)), repr(name)
    )
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    source = RowSource(encoded, image, values.astype(np.int64), f"{name} {wanted}")
    data = ImageDataset(source, classes)
    return part_of_training(data, config, split) if holds_out else data


@contextmanager
def opened_elsewhere(config: DataConfig) -> Iterator[None]:
    """Turn an error of the library that opens a dataset into one line.

    Raises:
        InputError: the dataset cannot be opened.
    """
    try:
        yield
    except Exception as error:  # its kind depends on the library that reads the files
        hint = "" if config.download else "; data.download=true may fetch it"
        raise InputError(
            f"dataset {config.name!r} cannot be opened with root={config.root!r}:"
            f" {first_line(error)}{hint}"
        ) from error


def _column(rows: Any, name: str, given: str | None, what: str, kind: type) -> str:
    """Return the column of images or labels: the one given, or the only one of the type."""
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    return chosen_column(found or [what], list(rows.features), given, what, repr(name))


@dataclass(frozen=True)
class RowSource:
    """Images in the rows of a table on disk.

    Args:
        rows: a ``datasets.Dataset`` whose images are not decoded.
        column: name of the column of images.
        labels: (rows,) int64, class indices.
        title: name of the table in messages.
    """

    rows: Any
    column: str
    labels: np.ndarray
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the number of the row, counted from 0."""
        return f"row {index} of {self.title}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Read the bytes of the image, from the row or the file that it names, and the label."""
        image = self.rows[int(index)][self.column] or {"bytes": b"", "path": None}
        content = image["bytes"]
        if content is None:
            content = read_image(image["path"])
        return content, int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """Return the labels; rows have no names."""
        return [self.labels]
