"""Image files whose classes are in a table: a CSV file with a column of paths and one of labels."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.naming import (
    NOT_AN_IMAGE,
    SPLIT_NAMES,
    TEST_NAMES,
    chosen_column,
    is_image,
    is_of_system,
    sorted_classes,
)
from kat.data.sources.folder import dataset_of_files
from kat.data.sources.holdout import is_held_out
from kat.errors import InputError, unknown
from kat.files import leads_outside, read_text

_PATHS = ("path", "image", "filename")
"""The columns that hold the paths if no other is given."""
_SPLITS = {
    **dict.fromkeys(SPLIT_NAMES["train"], "train"),
    **dict.fromkeys(SPLIT_NAMES["val"], "val"),
    **dict.fromkeys(TEST_NAMES, "test"),
}
"""The split that each word of a table means, in lower case."""
_LIMIT = 1 << 30
"""The most bytes of a table: ten million rows."""
_SEVERAL = re.compile(r".*[;|].*|\[.*\]")
"""A label that lists classes: ``cat;dog``, ``cat|dog`` or ``['cat', 'dog']``."""


class _Row(NamedTuple):
    path: str
    label: str
    split: str


def open_table(config: DataConfig, path: str, split: str) -> ImageDataset:
    """Open a split of the images in a CSV file with a column of paths and one of labels.

    The columns are ``config.image_key``, or the one of path, image and filename that is there;
    ``config.label_key``, or label; and perhaps split. Others are not used. The cells are divided by
    commas, semicolons or tabs.

    Paths are relative to the folder of the file, and none may lead out of it, nor a link. The
    classes are the labels, sorted as names of folders; the images are in the order of their classes
    and paths. So the table of a folder gives the same dataset as the folder. A share
    ``config.holdout`` of each class is held out for validation on the same conditions as for a
    folder.

    Raises:
        InputError: a column is missing or ambiguous; or the message names the first row that is
            invalid: a cell is missing or empty, a file is missing, outside the folder or in two
            rows, a split is unknown, or a label names several classes or a number to regress on.
    """
    folder = Path(path).parent
    rows = _read(Path(path), folder, config)
    given = {row.split for row in rows}
    val = _SPLITS.get(config.val_split.lower())
    if val is None:
        raise unknown("split (data.val_split)", config.val_split, _SPLITS)
    if val == "test" and val not in given:
        raise InputError(f"{path} has no image of the test split")
    holds_out = is_held_out(config, has_val=val in given)
    if not holds_out and split == "train" and given == {""}:
        raise InputError(f"{path} has no column split: add it, or give data.holdout, e.g. 0.1")
    wanted = "train" if holds_out or split == "train" else val
    files = defaultdict(list)
    ignored = {}
    for row in sorted(rows, key=lambda row: os.path.split(row.path)):
        if row.split not in (wanted, ""):
            continue
        if is_image(row.path):
            files[row.label].append(row.path)
        else:
            ignored[os.path.join(folder, row.path)] = NOT_AN_IMAGE
    if not files:
        raise InputError(f"{path} has no image of the {wanted} split")
    by_class = {name: files[name] for name in sorted_classes(files)}
    data = dataset_of_files(folder, by_class, ignored, config, split, holds_out=holds_out)
    if holds_out and "test" in given:
        data.note += "; its rows of test are kept for testing: kat eval RUN --data.val_split test"
    return data


def _read(table: Path, folder: Path, config: DataConfig) -> list[_Row]:
    """Return the rows of a table, with paths relative to its folder."""
    text = read_text(table, _LIMIT)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    file = io.StringIO(text, newline="")
    lines = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        columns, *cells = [list(map(str.strip, line)) for line in lines] or [[]]
    except csv.Error as error:
        raise InputError(f"{table} is not a CSV file: row {lines.line_num}: {error}") from None
    image = chosen_column(_PATHS, columns, config.image_key, "image", table)
    target = chosen_column(("label",), columns, config.label_key, "label", table)
    inside = os.path.realpath(folder)
    is_outside = cache(partial(leads_outside, folder=inside))  # many images lie in few folders
    seen: dict[str, int] = {}
    rows = []
    for number, line in enumerate(cells, start=2):
        row = dict(zip(columns, line, strict=False))
        path, label, split = row.get(image, ""), row.get(target, ""), row.get("split", "").lower()
        if not any(line) or is_of_system(path):
            continue
        full = os.path.abspath(os.path.join(folder, path))
        problem = ""
        if len(line) != len(columns):
            problem = f"{len(line)} cells for {len(columns)} columns: quote a cell with a comma"
        elif not path or not label:
            problem = f"an empty {target if path else image}"
        elif "split" in columns and split not in _SPLITS:
            problem = f"the split {split!r}: it must be train, val or test"
        elif _SEVERAL.fullmatch(label):
            problem = f"the label {label!r}, several classes: kat has no multi-label classification"
        elif is_outside(full if os.path.islink(full) else os.path.dirname(full)):
            problem = f"{path!r}, which is outside {inside}: move the table above its images"
        elif not os.path.exists(full):
            problem = f"{path!r}, which does not exist in {inside}"
        elif full in seen:
            problem = f"{path!r}, which row {seen[full]} has already"
        if problem:
            raise InputError(f"{table}: row {number} has {problem}")
        seen[full] = number
        rows.append(_Row(os.path.relpath(full, folder), label, _SPLITS.get(split, "")))
    if not rows:
        raise InputError(f"{table} has no row")
    if _are_measurements({row.label for row in rows}):
        raise InputError(
            f"{table}: the labels are numbers such as {rows[0].label!r}, and kat has no regression:"
            " give names of classes"
        )
    return rows


def _are_measurements(labels: set[str]) -> bool:
    """Return True for numbers of which one is no integer."""
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return not all(number.is_integer() for number in numbers)
