"""Hugging Face datasets on this machine: saved folders, parquet and image folders, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import read_image
from kat.data.numbered_classes import check_num_classes, numbered_classes, wrong_label
from kat.errors import InputError, first_line, unknown
from kat.extras import require
from kat.text import quoted


def open_huggingface(config: DataConfig, name: str, split: str) -> ImageDataset:
    """Opens a split of a dataset of the package ``datasets``.

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
    wanted = config.train_split if split == "train" else config.val_split
    rows = _load(config, name, wanted)
    import datasets

    image = _column(rows, name, config.image_key, "image", lambda f: isinstance(f, datasets.Image))
    label = _column(
        rows, name, config.label_key, "label", lambda f: isinstance(f, datasets.ClassLabel)
    )
    labels, classes = _labels(rows, name, label, config.num_classes)
    try:
        encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's are of these
        raise InputError(
            f"the column {image!r} of {name!r} (data.image_key) holds no images; its type is"
            f" {rows.features[image]}"
        ) from error
    return ImageDataset(RowSource(encoded, image, labels, f"{name} {wanted}"), classes)


class RowSource:
    """Images in the rows of a table on disk.

    Args:
        rows: a ``datasets.Dataset`` whose images are not decoded.
        column: name of the column of images.
        labels: (rows,) int64, class indices.
        title: name of the table in messages.
    """

    def __init__(self, rows: Any, column: str, labels: np.ndarray, title: str) -> None:
        self.rows = rows
        self.column = column
        self.labels = labels
        self.title = title

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The number of the row, counted from 0."""
        return f"row {index} of {self.title}"

    def read(self, index: int) -> tuple[bytes, int]:
        """Reads the bytes of the image, from the row or the file that it names, and the label."""
        image = self.rows[int(index)][self.column] or {"bytes": b"", "path": None}
        content = image["bytes"]
        if content is None:
            content = read_image(image["path"])
        return content, int(self.labels[index])

    def listing(self) -> list[np.ndarray]:
        """The labels; rows have no names."""
        return [self.labels]


_SAVED = ("dataset_dict.json", "state.json")
"""What save_to_disk writes for several splits and for one."""


def _load(config: DataConfig, name: str, split: str) -> Any:
    datasets = require("datasets", repr(config.name))
    try:
        with _network(config.download):
            if any((Path(name) / file).is_file() for file in _SAVED):
                splits = datasets.load_from_disk(name)
                if not isinstance(splits, dict):  # one split, which need not know its name
                    splits = {str(splits.split or config.train_split): splits}
            else:
                splits = datasets.load_dataset(name, cache_dir=config.root)
    except Exception as error:  # depends on the library that reads the files
        hint = "" if config.download else "; data.download=true may fetch it"
        raise InputError(
            f"dataset {config.name!r} cannot be opened: {first_line(error)}{hint}"
        ) from None
    if split not in splits:
        option = "train_split" if split == config.train_split else "val_split"
        raise unknown(f"split (data.{option}) of {config.name!r}", split, splits)
    return splits[split]


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Allows ``datasets`` to use the network, or not; it would use it even for cached datasets."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not allowed
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _column(rows: Any, name: str, given: str | None, what: str, fits: Any) -> str:
    """The given column, or else the only one of its kind."""
    if given is not None:
        if given not in rows.features:
            raise unknown(f"column (data.{what}_key) of {name!r}", given, rows.features)
        return given
    found = [column for column, feature in rows.features.items() if fits(feature)]
    if len(found) == 1:
        return found[0]
    if not found and what in rows.features:
        return what
    which = quoted(found, "the column", "the columns") if found else "no column"
    raise InputError(
        f"{name!r} has {which} for the {what}; choose with data.{what}_key from"
        f" {', '.join(rows.features)}"
    )


def _labels(
    rows: Any, name: str, column: str, num_classes: int | None
) -> tuple[np.ndarray, list[str]]:
    """The class indices, (rows,) int64, and the class names."""
    values = np.asarray(rows.select_columns([column]).with_format("numpy")[:][column])
    if values.ndim == 1 and values.dtype.kind in "US":
        names, labels = np.unique(values, return_inverse=True)
        return labels.astype(np.int64), [str(label) for label in names]
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(
            f"the column {column!r} of {name!r} must hold a class index or name in every row;"
            f" its type is {rows.features[column]}"
        )
    known = getattr(rows.features[column], "names", None)
    largest = int(values.max(initial=-1))
    classes = list(known) if known else numbered_classes(num_classes, largest, repr(name))
    check_num_classes(num_classes, len(classes), repr(name))
    wrong = np.flatnonzero((values < 0) | (values >= len(classes)))
    if len(wrong):
        label = values[wrong[0]]
        raise InputError(wrong_label(f"row {wrong[0]} of {name!r}", label, len(classes)))
    return values.astype(np.int64), classes
