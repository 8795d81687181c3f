"""What can be wrong in a COCO file, found from its arrays alone: no image is opened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kat.data.dense.coco.table import CocoTable
from kat.data.dense.problems import Problem, found

TOLERANCE = 1.0
"""Pixels that a box may reach beyond its image; rounding does that."""

MARGIN = 1.0
"""Sides of its image that a polygon may reach beyond it; drawing takes memory by its length."""

_LEFT_OUT = "they are left out"


def annotation_problems(table: CocoTable) -> tuple[list[Problem], np.ndarray]:
    """What is wrong, and which annotations are left once the wrong ones are skipped.

    An annotation counts once, for the first thing that is wrong with it.

    Returns:
        The problems; and (annotations,) bool.
    """
    problems = _table_problems(table)
    good = np.ones(len(table.ids), bool)
    for kind, wrong in _wrong_annotations(table):
        chosen = np.flatnonzero(wrong & good)
        problems += _of_annotations(table, kind, chosen, _LEFT_OUT)
        good[chosen] = False
    beyond = np.flatnonzero((_beyond(table) > TOLERANCE) & good)
    kind = f"boxes more than {TOLERANCE:g} pixel outside their image"
    problems += _of_annotations(table, kind, beyond, "what is trained on is around their masks")
    if len(table.ids) and not good.any():
        problems.append(Problem("files without one right annotation", 1, str(table.path)))
    return problems, good


def unused_categories(table: CocoTable, good: np.ndarray) -> list[str]:
    """The categories that no good annotation has."""
    used = set(table.category_of[good].tolist())
    pairs = zip(table.category_ids.tolist(), table.categories, strict=True)
    return [name for number, name in pairs if number not in used]


def _table_problems(table: CocoTable) -> list[Problem]:
    """Problems of images and categories; there is no way around these."""
    problems = [] if len(table.image_ids) else [Problem("files without images", 1, str(table.path))]
    if not table.categories:
        problems.append(Problem("files without categories", 1, str(table.path)))
    again = _repeated(table.image_ids)
    problems += found(
        "image ids that another image has",
        [f"{table.image_ids[i]} of {table.names[i]!r}" for i in again],
    )
    problems += found(
        "category ids that another category has",
        [
            f"{table.category_ids[i]} of {table.categories[i]!r}"
            for i in _repeated(table.category_ids)
        ],
    )
    problems += found(
        "category names that another category has",
        [repr(table.categories[i]) for i in _repeated(np.array(table.categories))],
    )
    sizes = np.flatnonzero((table.sizes <= 0).any(1))
    problems += found(
        "images of no size",
        [f"{table.names[i]!r}: {table.sizes[i][1]}x{table.sizes[i][0]}" for i in sizes.tolist()],
    )
    return problems


def _wrong_annotations(table: CocoTable) -> list[tuple[str, np.ndarray]]:
    """Kinds of wrong annotations, and (annotations,) bool, which are of each."""
    again = np.zeros(len(table.ids), bool)
    again[_repeated(table.ids)] = True
    outlines = table.segmentations
    height, width = _image_sizes(table).T
    runs = np.diff(outlines.runs.ends, prepend=0) > 0
    resized = runs & ((outlines.heights != height) | (outlines.widths != width))
    return [
        ("annotations of images that the file does not have", ~_known(table)),
        (
            "annotations of categories that the file does not have",
            ~np.isin(table.category_of, table.category_ids),
        ),
        ("annotation ids that another annotation has", again),
        ("boxes of zero area", (table.boxes[:, 2:] <= 0).any(1)),
        ("boxes wholly outside their image", _outside(table)),
        ("annotations without polygons or run lengths for a mask", ~outlines.there()),
        ("masks of another size than their image", resized),
        ("polygons that are not finite or reach far beyond their image", _far(table)),
    ]


def _known(table: CocoTable) -> np.ndarray:
    return np.isin(table.image_of, table.image_ids)


def _image_sizes(table: CocoTable) -> np.ndarray:
    """(annotations, 2), height and width of the image of each; zeros where it has none."""
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
    """(annotations,): whether a polygon has a coordinate that is NaN or outside by its margin."""
    owners, low, high = table.segmentations.extents()
    sides = _image_sizes(table)[owners, ::-1]
    near = (low >= -MARGIN * sides) & (high <= (1 + MARGIN) * sides)
    far = np.zeros(len(table.ids), bool)
    far[owners[~near.all(1)]] = True
    return far


def _beyond(table: CocoTable) -> np.ndarray:
    """(annotations,): pixels that a box reaches beyond its image."""
    x, y, width, height = table.boxes.T
    image_height, image_width = _image_sizes(table).T
    return np.max([-x, -y, x + width - image_width, y + height - image_height], axis=0)


def _repeated(values: np.ndarray) -> np.ndarray:
    """The places of values that an earlier one equals."""
    first = np.unique(values, return_index=True)[1]
    return np.setdiff1d(np.arange(len(values)), first)


def _of_annotations(
    table: CocoTable, kind: str, chosen: Sequence[int] | np.ndarray, skipping: str
) -> list[Problem]:
    if not len(chosen):
        return []
    row = int(chosen[0])
    images = np.flatnonzero(table.image_ids == table.image_of[row])
    image = repr(table.names[int(images[0])]) if len(images) else f"id {table.image_of[row]}"
    box = ", ".join(f"{number:g}" for number in table.boxes[row])
    first = (
        f"annotation {table.ids[row]} (image {image}, category {table.category_of[row]},"
        f" box [{box}])"
    )
    return [Problem(kind, len(chosen), first, skipping)]
