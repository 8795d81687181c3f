"""The content of a COCO file in arrays: 118k images without millions of small objects."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kat.data.packed_strings import PackedStrings
from kat.documents import read_json
from kat.errors import InputError

_NO_OUTLINE: tuple[object, ...] = (None, [], [[]], {}, "")
"""What files have in the place of an outline that there is not."""


@dataclass(frozen=True)
class Segmentations:
    """The outlines of annotations: polygons, or run lengths in COCO's compressed format.

    Args:
        coordinates: (numbers,) float64, x and y in turn, of all polygons.
        polygon_ends: (polygons,) int64, where each polygon ends in ``coordinates``.
        ends: (annotations,) int64, where the polygons of each annotation end in ``polygon_ends``.
        runs: compressed run lengths of each annotation; empty if it has polygons.
        heights, widths: (annotations,) int64, image size of the run lengths; 0 for polygons.
        given: (annotations,) bool, whether the file says anything about the outline.
    """

    coordinates: np.ndarray
    polygon_ends: np.ndarray
    ends: np.ndarray
    runs: PackedStrings
    heights: np.ndarray
    widths: np.ndarray
    given: np.ndarray

    def polygons(self, index: int) -> list[np.ndarray]:
        """The polygons of an annotation, each (numbers,) float64."""
        bounds = _between(self.ends, index)
        return [
            self.coordinates[slice(*_between(self.polygon_ends, polygon))]
            for polygon in range(*bounds)
        ]

    def extents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The annotation of each polygon, and its bounding box.

        Returns:
            (polygons,) int64, indices of annotations; (polygons, 2) float64, the least x and y;
            (polygons, 2) float64, the greatest x and y. NaN if a coordinate is NaN.
        """
        owners = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        starts = np.concatenate([[0], self.polygon_ends[:-1]])[: len(owners)] // 2
        points = self.coordinates.reshape(-1, 2)
        return owners, np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)

    def exist(self) -> np.ndarray:
        """(annotations,) bool: whether each annotation has an outline."""
        polygons = np.diff(self.ends, prepend=0)
        runs = np.diff(self.runs.ends, prepend=0)
        return (polygons > 0) | (runs > 0)


@dataclass(frozen=True)
class CocoTable:
    """The content of a COCO file of instances, in its order, not validated.

    Args:
        path: path of the file.
        names: names of the image files.
        image_ids: (images,) int64.
        sizes: (images, 2) int64, height and width.
        category_ids: (categories,) int64, ascending; their class indices are 0, 1, ...
        categories: names of the categories.
        ids: (annotations,) int64.
        image_of: (annotations,) int64, id of the image.
        category_of: (annotations,) int64, id of the category.
        boxes: (annotations, 4) float64: x, y, width, height.
        areas: (annotations,) float64; -1 if the file has none.
        crowd: (annotations,) bool.
        segmentations: outlines of the annotations.
    """

    path: Path
    names: PackedStrings
    image_ids: np.ndarray
    sizes: np.ndarray
    category_ids: np.ndarray
    categories: list[str]
    ids: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    segmentations: Segmentations

    @property
    def has_masks(self) -> bool:
        """Whether any annotation has an outline."""
        return bool(self.segmentations.given.any())


def read_table(path: Path, boxes_only: bool = False) -> CocoTable:
    """Reads a COCO file of instances.

    Args:
        path: the file.
        boxes_only: whether the outlines are left out.

    Raises:
        InputError: the file is not JSON, or a list or a field is missing or has the wrong type.
    """
    content = _json(path)
    images, annotations, categories = (
        _rows(content, name, path) for name in ("images", "annotations", "categories")
    )
    image, annotation, category = (
        _Columns(rows, path, kind)
        for rows, kind in (
            (images, "image"),
            (annotations, "annotation"),
            (categories, "category"),
        )
    )
    category_ids = category.numbers("id", np.int64)
    names = category.texts("name")
    order = np.argsort(category_ids, kind="stable")
    return CocoTable(
        path=path,
        names=PackedStrings.pack(image.texts("file_name")),
        image_ids=image.numbers("id", np.int64),
        sizes=np.stack([image.numbers(name, np.int64) for name in ("height", "width")], axis=1),
        category_ids=category_ids[order],
        categories=[names[index] for index in order],
        ids=annotation.numbers("id", np.int64),
        image_of=annotation.numbers("image_id", np.int64),
        category_of=annotation.numbers("category_id", np.int64),
        boxes=annotation.numbers("bbox", np.float64, shape=(4,)),
        areas=annotation.numbers("area", np.float64, default=-1),
        crowd=annotation.numbers("iscrowd", np.int64, default=0) != 0,
        segmentations=_segmentations([{}] * len(annotations) if boxes_only else annotations),
    )


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a COCO file: it must hold an object")
    return content


def _rows(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    rows = content.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(
            f"{path} has no list {name!r} of objects: is it in COCO's instance format?"
        )
    return rows


@dataclass(frozen=True)
class _Columns:
    """Reads fields of all rows of a list in the file.

    Args:
        rows: the list.
        path: path of the file, for messages.
        kind: name of a row in messages.
    """

    rows: list[dict[str, Any]]
    path: Path
    kind: str

    def numbers(
        self, field: str, dtype: Any, *, default: float | None = None, shape: tuple[int, ...] = ()
    ) -> np.ndarray:
        """(rows, *shape): a numeric field, with a default, if one is given, for rows without it.

        Null counts as missing.
        """
        given = [default if row.get(field) is None else row[field] for row in self.rows]
        values = _array(given) if given else np.zeros((0, *shape))
        if not _are_numbers(values, (len(given), *shape), dtype):
            self._raise(field, lambda value: _are_numbers(_array(value), shape, dtype), given)
        return values.astype(dtype)

    def texts(self, field: str) -> list[str]:
        """A field of strings."""
        given = [row.get(field) for row in self.rows]
        texts = [value for value in given if isinstance(value, str)]
        if len(texts) < len(given):
            self._raise(field, lambda value: isinstance(value, str), given)
        return texts

    def _raise(self, field: str, right: Callable[[Any], bool], given: Sequence[Any]) -> None:
        pairs = zip(self.rows, given, strict=True)
        row = next(row for row, value in pairs if not right(value))
        raise InputError(
            f"{self.path}: {field!r} of the {self.kind} with id {row.get('id')!r} is"
            f" {row.get(field)!r}, which is not valid in COCO's format"
        )


_LIMIT = 2**62
"""No integer in a file is larger, so that sums of two of them are right."""


def _array(values: Any) -> np.ndarray:
    """An array of arbitrary values; an empty one if they are not rectangular."""
    try:
        return np.array(values)
    except ValueError:
        return np.zeros(0)


def _are_numbers(values: np.ndarray, shape: tuple[int, ...], dtype: Any) -> bool:
    """Whether values are finite numbers of this shape; whole numbers for an integer dtype."""
    if values.shape != shape or values.dtype.kind not in "biuf":  # iscrowd may be true or false
        return False
    if not np.isfinite(values).all():
        return False
    if not np.issubdtype(dtype, np.integer):
        return True
    low, high = max(-_LIMIT, np.iinfo(dtype).min), min(_LIMIT, np.iinfo(dtype).max)
    return bool(((values % 1 == 0) & (low <= values) & (values <= high)).all())


def _segmentations(annotations: Sequence[dict[str, Any]]) -> Segmentations:
    coordinates, polygon_ends, ends = array("d"), array("q"), array("q")
    heights, widths = array("q"), array("q")

    def runs() -> Iterable[str]:
        for annotation in annotations:
            outline = annotation.get("segmentation")
            height, width, text = _runs(outline) if isinstance(outline, dict) else (0, 0, "")
            for polygon in _polygons(outline):
                coordinates.extend(polygon)
                polygon_ends.append(len(coordinates))
            ends.append(len(polygon_ends))
            heights.append(height)
            widths.append(width)
            yield text

    packed = PackedStrings.pack(runs())
    return Segmentations(
        np.frombuffer(coordinates, np.float64),
        np.frombuffer(polygon_ends, np.int64),
        np.frombuffer(ends, np.int64),
        packed,
        np.frombuffer(heights, np.int64),
        np.frombuffer(widths, np.int64),
        np.array([one.get("segmentation") not in _NO_OUTLINE for one in annotations], bool),
    )


def _polygons(outline: Any) -> list[array[float]]:
    """The polygons with at least three points; none if one polygon is damaged."""
    if not isinstance(outline, list):
        return []
    try:
        polygons = [array("d", polygon) for polygon in outline]
    except (OverflowError, TypeError):
        return []
    whole = all(len(polygon) % 2 == 0 for polygon in polygons)
    return [polygon for polygon in polygons if len(polygon) >= 6] if whole else []


def _runs(outline: dict[str, Any]) -> tuple[int, int, str]:
    """Height, width and compressed run lengths, which are empty if they are damaged."""
    from faster_coco_eval.core import mask

    size, counts = outline.get("size"), outline.get("counts")
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        return 0, 0, ""
    height, width = size
    if not all(0 <= side < _LIMIT for side in size):
        return 0, 0, ""
    if isinstance(counts, list):
        try:
            counts = mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
        except (RuntimeError, TypeError, ValueError):
            return height, width, ""
    text = counts.decode() if isinstance(counts, bytes) else counts
    return (height, width, text) if isinstance(text, str) else (height, width, "")


def _between(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Start and end of a part, given the ends of consecutive parts."""
    return int(ends[index - 1]) if index else 0, int(ends[index])
