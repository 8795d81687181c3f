"""Validates the annotations in a COCO file, without opening any image."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np

from kat.data.dense.coco.layout import CocoFiles
from kat.data.dense.coco.run_lengths import damaged_runs
from kat.data.dense.coco.table import CocoTable
from kat.data.dense.validation import Problem, problems_of

TOLERANCE = 1.0
"""Pixels that a box may extend beyond its image, because of rounding."""

MARGIN = 1.0
"""Image sides that a polygon may extend beyond its image; drawing uses memory by its length."""

_LEFT_OUT = "they are left out"


def annotation_problems(table: CocoTable, files: CocoFiles) -> tuple[list[Problem], np.ndarray]:
    """Finds the problems of a file, and the annotations that are valid.

    An annotation counts once, for its first problem.

    Returns:
        The problems; (annotations,) bool, whether each annotation is valid.
    """
    problems = _table_problems(table, files)
    valid = np.ones(len(table.ids), bool)
    masks = _invalid_masks(table) if table.has_masks else []
    for kind, invalid in [*_invalid_annotations(table), *masks]:
        chosen = np.flatnonzero(invalid & valid)
        problems += _annotation_problem(table, kind, chosen, _LEFT_OUT)
        valid[chosen] = False
    beyond = np.flatnonzero((_excess(table) > TOLERANCE) & valid)
    kind = f"boxes more than {TOLERANCE:g} pixel outside their image"
    remedy = f"training {'uses boxes around their masks' if table.has_masks else 'cuts them off'}"
    problems += _annotation_problem(table, kind, beyond, remedy)
    if len(table.ids) and not valid.any():
        problems.append(Problem("files without a valid annotation", [str(table.path)]))
    return problems, valid


def category_counts(table: CocoTable, valid: np.ndarray) -> dict[str, int]:
    """The number of valid annotations of each category."""
    counts = Counter(table.category_of[valid].tolist())
    pairs = zip(table.category_ids.tolist(), table.categories, strict=True)
    return {name: counts[number] for number, name in pairs}


def _table_problems(table: CocoTable, files: CocoFiles) -> list[Problem]:
    """Problems of images and categories, which cannot be skipped."""
    problems = [] if len(table.image_ids) else [Problem("files without images", [str(table.path)])]
    if not table.categories:
        problems.append(Problem("files without categories", [str(table.path)]))
    problems += problems_of(
        "duplicate image ids",
        [f"{table.image_ids[i]} of {table.names[i]!r}" for i in _repeated(table.image_ids)],
    )
    problems += problems_of(
        "duplicate category ids",
        [
            f"{table.category_ids[i]} of {table.categories[i]!r}"
            for i in _repeated(table.category_ids)
        ],
    )
    problems += problems_of(
        "duplicate category names",
        [repr(table.categories[i]) for i in _repeated(np.array(table.categories))],
    )
    problems += problems_of(
        "category names with half a character (a lone surrogate)",
        [repr(name) for name in table.categories if _has_surrogate(name)],
    )
    inside = os.path.join(os.path.abspath(files.root), "")
    paths = ((name, os.path.abspath(os.path.join(files.images, name))) for name in table.names)
    problems += problems_of(
        f"images outside the data folder (each file_name must be a path in {files.root})",
        [repr(name) for name, path in paths if not path.startswith(inside)],
    )
    sizes = np.flatnonzero((table.sizes <= 0).any(1))
    problems += problems_of(
        "images without a size",
        [f"{table.names[i]!r}: {table.sizes[i][1]}x{table.sizes[i][0]}" for i in sizes.tolist()],
    )
    return problems


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _invalid_annotations(table: CocoTable) -> list[tuple[str, np.ndarray]]:
    """Kinds of invalid annotations, each with (annotations,) bool: those of this kind."""
    duplicate = np.zeros(len(table.ids), bool)
    duplicate[_repeated(table.ids)] = True
    return [
        ("annotations of unknown images", ~_known(table)),
        (
            "annotations of unknown categories",
            ~np.isin(table.category_of, table.category_ids),
        ),
        ("duplicate annotation ids", duplicate),
        ("boxes of zero area", table.boxes[:, 2:].min(axis=1) <= 0),
        ("boxes entirely outside their image", _outside(table)),
    ]


def _invalid_masks(table: CocoTable) -> list[tuple[str, np.ndarray]]:
    """As :func:`_invalid_annotations`, of a file in which annotations have masks."""
    outlines = table.segmentations
    height, width = _image_sizes(table).T
    runs = np.diff(outlines.runs.ends, prepend=0) > 0
    resized = runs & ((outlines.heights != height) | (outlines.widths != width))
    return [
        (
            "annotations without a mask beside others with one (data.boxes_only=true takes both)",
            ~outlines.given,
        ),
        ("annotations without polygons or run lengths for a mask", ~outlines.exist()),
        ("masks whose size differs from their image", resized),
        ("masks with damaged run lengths", damaged_runs(outlines.runs, 1.0 * height * width)),
        ("polygons that are not finite or reach far beyond their image", _far(table)),
    ]


def _known(table: CocoTable) -> np.ndarray:
    return np.isin(table.image_of, table.image_ids)


def _image_sizes(table: CocoTable) -> np.ndarray:
    """(annotations, 2): height and width of the image of each; zeros if it has no image."""
    sizes = np.zeros((len(table.ids), 2), np.int64)
    if len(table.image_ids):
        by_id = np.argsort(table.image_ids, kind="stable")
        places = np.searchsorted(table.image_ids[by_id], table.image_of)
        known = _known(table)
        sizes[known] = table.sizes[by_id[places[known]]]
    return sizes


def _outside(table: CocoTable) -> np.ndarray:
    x, y, width, height = table.boxes.T
    image_height, image_width = _image_sizes(table).T
    return (x >= image_width) | (y >= image_height) | (x + width <= 0) | (y + height <= 0)


def _far(table: CocoTable) -> np.ndarray:
    """(annotations,) bool: whether a polygon is not finite or outside its image by the margin."""
    owners, low, high = table.segmentations.extents()
    sides = _image_sizes(table)[owners, ::-1]
    near = (low >= -MARGIN * sides) & (high <= (1 + MARGIN) * sides)
    far = np.zeros(len(table.ids), bool)
    far[owners[~near.all(1)]] = True
    return far


def _excess(table: CocoTable) -> np.ndarray:
    """(annotations,): pixels that a box extends beyond its image."""
    x, y, width, height = table.boxes.T
    image_height, image_width = _image_sizes(table).T
    return np.max([-x, -y, x + width - image_width, y + height - image_height], axis=0)


def _repeated(values: np.ndarray) -> np.ndarray:
    """The indices of values that are equal to an earlier one."""
    first = np.unique(values, return_index=True)[1]
    return np.setdiff1d(np.arange(len(values)), first)


def _annotation_problem(
    table: CocoTable, kind: str, chosen: np.ndarray, remedy: str
) -> list[Problem]:
    if not len(chosen):
        return []
    place_of = {number: place for place, number in enumerate(table.image_ids.tolist())}

    def case(row: int) -> str:
        place = place_of.get(int(table.image_of[row]))
        image = f"id {table.image_of[row]}" if place is None else repr(table.names[place])
        box = ", ".join(f"{number:g}" for number in table.boxes[row])
        return (
            f"annotation {table.ids[row]} (image {image}, category {table.category_of[row]},"
            f" box [{box}])"
        )

    return problems_of(kind, [case(row) for row in chosen.tolist()], remedy)
