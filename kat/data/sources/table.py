"""Image files whose classes are in a table: a CSV file with the columns path, label and split."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.naming import NOT_AN_IMAGE, is_image, is_of_system, sorted_classes
from kat.data.sources.folder import dataset_of_files
from kat.errors import InputError
from kat.files import read_text
from kat.text import listing

_COLUMNS = ["path", "label", "split"]
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
_LIMIT = 1 << 30
"""The most bytes of a table: ten million rows."""
_SEVERAL = re.compile(r".*[;|].*|\[.*\]")
"""A label that lists classes: ``cat;dog``, ``cat|dog`` or ``['cat', 'dog']``."""


class _Row(NamedTuple):
    path: str
    label: str
    split: str


def open_table(config: DataConfig, path: str, split: str) -> ImageDataset:
    """Open a split of the images in a CSV file with the columns path, label and perhaps split.

    Paths are relative to the folder of the file, and none may lead out of it. The classes are the
    labels, sorted as names of folders; the images are in the order of their classes and paths.
    So the table of a folder gives the same dataset as the folder. A share ``config.holdout`` of
    each class is held out for validation on the same conditions as for a folder.

    Raises:
        InputError: the table has other columns; or it names the first row that is invalid: a cell
            is missing or empty, a file is missing, outside the folder or in two rows, a split is
            unknown, or a label names several classes or a number to regress on.
    """
    folder = Path(path).parent
    rows = _read(Path(path), folder)
    given = {row.split for row in rows}
    own = {name: [row for row in rows if row.split in (name, "")] for name in ("train", "val")}
    holdout = config.holdout
    if "val" in given and config.validate_on == "split":
        holdout = 0.0
    elif holdout == 0 and split == "train" and given == {""}:
        raise InputError(f"{path} has no column split: add it, or give data.holdout, e.g. 0.1")
    chosen = own["train" if holdout > 0 else split]
    images = [row for row in chosen if is_image(row.path)]
    if not images:
        raise InputError(f"{path} has no image of the {split} split")
    files: dict[str, list[str]] = {name: [] for name in sorted_classes({r.label for r in images})}
    for row in sorted(images, key=lambda row: os.path.split(row.path)):
        files[row.label].append(row.path)
    others = (os.path.join(folder, row.path) for row in chosen if not is_image(row.path))
    ignored = dict.fromkeys(others, NOT_AN_IMAGE)
    return dataset_of_files(folder, files, ignored, config, split, holdout, path)


def _read(table: Path, folder: Path) -> list[_Row]:
    """Return the rows of a table, with paths relative to its folder."""
    text = io.StringIO(read_text(table, _LIMIT), newline="")
    lines = csv.reader(text, skipinitialspace=True, strict=True)
    try:
        columns, *cells = [[cell.strip() for cell in line] for line in lines] or [[]]
    except csv.Error as error:
        raise InputError(f"{table} is not a CSV file: row {lines.line_num}: {error}") from None
    if sorted(columns) not in (sorted(_COLUMNS), sorted(_COLUMNS[:2])):
        raise InputError(
            f"{table} must have the columns path, label and, if wanted, split, and no other, with"
            f" commas between them; it has {listing(map(repr, columns), 8) or 'none'}"
        )
    inside = os.path.join(os.path.abspath(folder), "")
    seen: dict[str, int] = {}
    rows = []
    for number, line in enumerate(cells, start=2):
        row = dict(zip(columns, line, strict=False))
        path, label, split = (row.get(name, "") for name in _COLUMNS)
        if not any(line) or is_of_system(path):
            continue
        full = os.path.abspath(os.path.join(folder, path))
        problem = ""
        if len(line) != len(columns):
            problem = f"{len(line)} cells for {len(columns)} columns: quote a cell with a comma"
        elif not path or not label:
            problem = f"an empty {'label' if path else 'path'}"
        elif "split" in columns and split not in _SPLITS:
            problem = f"the split {split!r}: it must be train or val"
        elif _SEVERAL.fullmatch(label):
            problem = f"the label {label!r}, several classes: kat has no multi-label classification"
        elif not full.startswith(inside):
            problem = f"{path!r}, which is outside the folder of the table, {folder}"
        elif not os.path.exists(full):
            problem = f"{path!r}, which does not exist in {folder}"
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
