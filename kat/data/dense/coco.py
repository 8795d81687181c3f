"""Reads annotations in COCO's instance format, and finds the invalid ones."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import FailFast, Field, TypeAdapter, ValidationError

from kat.data.folders import existing_folder
from kat.data.naming import SPLIT_NAMES, check_unique
from kat.data.packed_strings import PackedStrings
from kat.documents import JSON_LIMIT
from kat.errors import InputError
from kat.files import read_bytes
from kat.text import listing

BEYOND = "boxes more than 1 pixel outside their image"
"""The one kind of invalid annotations that is used nevertheless."""

_Integer = Annotated[int, Field(ge=-(2**62), le=2**62)]


@dataclass(slots=True)
class _Image:
    id: _Integer
    file_name: str
    height: _Integer
    width: _Integer


@dataclass(slots=True)
class _Category:
    id: _Integer
    name: str


@dataclass(slots=True)
class _Annotation:
    id: _Integer
    image_id: _Integer
    category_id: _Integer
    bbox: list[float | None]
    area: float | None = None
    iscrowd: _Integer | None = None
    segmentation: Any = None


@dataclass(slots=True)
class _File:
    images: Annotated[list[_Image], Field(min_length=1), FailFast()]
    annotations: Annotated[list[_Annotation], FailFast()]
    categories: Annotated[list[_Category], Field(min_length=1), FailFast()]


@dataclass(frozen=True)
class CocoTable:
    """The content of a file in arrays: 118k images without millions of small objects.

    Args:
        path: the file.
        names: names of the image files.
        image_ids: (images,) int64.
        sizes: (images, 2) int64, height and width.
        categories: names of the categories by id, ascending; their class indices are 0, 1, ...
        labels: (annotations,) int64, class indices of the valid annotations, ordered by image.
        boxes: (annotations, 4) float64: x, y, width, height.
        areas: (annotations,) float64; -1 if the file has none.
        crowd: (annotations,) bool.
        masks: as JSON, polygons or COCO's compressed run lengths; empty without masks.
        starts: (images + 1,) int64, where the annotations of each image start.
        has_masks: True if any annotation of the file has a mask.
        problems: the invalid annotations of each kind.
    """

    path: Path
    names: PackedStrings
    image_ids: np.ndarray
    sizes: np.ndarray
    categories: dict[int, str]
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: PackedStrings
    starts: np.ndarray
    has_masks: bool
    problems: dict[str, list[str]]


def find_coco(root: Path, split: str) -> tuple[Path, Path]:
    """Find the annotations of a split and the folder of its images, in one of three layouts.

    - COCO's own: ROOT/annotations/instances_train2017.json and ROOT/train2017 (or another year);
    - ROOT/annotations/train.json (or instances_train.json) and ROOT/train;
    - ROOT/train/_annotations.coco.json, beside the images (Roboflow).

    The validation split may be named val, validation, valid or test. Images may also be in
    ROOT/images/train or ROOT/images.

    Raises:
        InputError: the folder or the file is missing, or there are several files.
    """
    folder = existing_folder(root) / "annotations"
    for name in SPLIT_NAMES[split]:
        beside = root / name / "_annotations.coco.json"
        if beside.is_file():
            return beside, beside.parent
        years = folder.glob(f"instances_{name}[0-9][0-9][0-9][0-9].json")
        named = [folder / f"{name}.json", folder / f"instances_{name}.json", *years]
        files = [file for file in named if file.is_file()]
        if files:
            break
    if len(files) == 1:
        stem = files[0].stem.removeprefix("instances_")
        for images in (root / stem, root / "images" / stem, root / "images"):
            if images.is_dir():
                return files[0], images
    problem = (
        f"no annotations of the {split} split beside a folder of their images: neither"
        f" annotations/instances_{split}2017.json, annotations/{split}.json nor"
        f" {split}/_annotations.coco.json"
    )
    if len(files) > 1:
        problem = f"more than one file of the {split} split; move all but one elsewhere"
    there = sorted(str(path.relative_to(root)) for path in [*root.iterdir(), *folder.glob("*")])
    raise InputError(f"{root} has {problem}; there is {listing(there, 8) or 'nothing'}")


def read_coco(path: Path, boxes_only: bool = False) -> CocoTable:
    """Read a file of instances; an invalid annotation is listed once, for its first problem.

    Args:
        path: the file.
        boxes_only: leave out the masks.

    Raises:
        InputError: the file is not in COCO's format, or has no valid annotation.
    """
    try:
        file = TypeAdapter(_File).validate_json(read_bytes(path, JSON_LIMIT))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise InputError(f"{path} is not in COCO's format: {where}{first['msg']}") from None
    place_of = {image.id: place for place, image in enumerate(file.images)}
    check_unique([str(image.id) for image in file.images], path, "image id", "image ids")
    check_unique([str(each.id) for each in file.categories], path, "category id", "category ids")
    check_unique([each.name for each in file.categories], path, "category name", "category names")
    categories = {each.id: each.name for each in sorted(file.categories, key=lambda each: each.id)}
    outlines = (each.segmentation for each in file.annotations)
    has_masks = not boxes_only and not all(map(_is_missing, outlines))
    problems: dict[str, list[str]] = defaultdict(list)
    valid: list[_Annotation] = []
    ids: set[int] = set()
    for each in file.annotations:
        image = file.images[place_of[each.image_id]] if each.image_id in place_of else None
        problem = _problem(each, image, categories, has_masks)
        if each.id in ids:
            problem = "annotations with the id of another one"
        ids.add(each.id)
        if problem:
            name = f"id {each.image_id}" if image is None else repr(image.file_name)
            problems[problem].append(
                f"annotation {each.id} of image {name}: category {each.category_id},"
                f" bbox {json.dumps(each.bbox)}"
            )
        if problem in ("", BEYOND):
            valid.append(each)
    valid.sort(key=lambda each: place_of[each.image_id])
    names = PackedStrings.pack(image.file_name for image in file.images)
    image_ids = [image.id for image in file.images]
    sizes = [(image.height, image.width) for image in file.images]
    class_of = {number: index for index, number in enumerate(categories)}
    labels = [class_of[each.category_id] for each in valid]
    boxes = np.array([each.bbox for each in valid], np.float64)
    areas = np.array([each.area for each in valid], np.float64)  # None becomes NaN
    crowd = [bool(each.iscrowd) for each in valid]
    masks = (json.dumps(each.segmentation) for each in valid if has_masks)
    places = [place_of[each.image_id] for each in valid]
    starts = np.searchsorted(places, np.arange(len(file.images) + 1))
    return CocoTable(
        path=path,
        names=names,
        image_ids=np.array(image_ids, np.int64),
        sizes=np.array(sizes, np.int64),
        categories=categories,
        labels=np.array(labels, np.int64),
        boxes=boxes.reshape(-1, 4),
        areas=np.nan_to_num(areas, nan=-1),
        crowd=np.array(crowd, bool),
        masks=PackedStrings.pack(masks),
        starts=starts,
        has_masks=has_masks,
        problems=dict(problems),
    )


def _is_missing(outline: Any) -> bool:
    return outline in (None, [], [[]], {}, "")


def _problem(
    annotation: _Annotation, image: _Image | None, categories: Collection[int], has_masks: bool
) -> str:
    """Return the kind of an annotation's first problem, or an empty string."""
    if image is None:
        return "annotations of unknown images"
    if annotation.category_id not in categories:
        return "annotations of unknown categories"
    box: list[Any] = annotation.bbox
    if len(box) != 4 or None in box or not math.isfinite(sum(box) + (annotation.area or 0)):
        return "boxes or areas that are not finite numbers"
    x, y, width, height = box
    if min(width, height) <= 0:
        return "boxes of zero area"
    if x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return "boxes entirely outside their image"
    excess = max(-x, -y, x + width - image.width, y + height - image.height)
    beyond = BEYOND if excess > 1 else ""
    return (_mask_problem(annotation, image) if has_masks else "") or beyond


def _mask_problem(annotation: _Annotation, image: _Image) -> str:
    """Return the problem of a mask, or an empty string.

    A valid mask becomes polygons of at least three points, or compressed run lengths.
    """
    outline = annotation.segmentation
    if _is_missing(outline):
        return "annotations without a mask beside others with one (data.boxes_only=true takes both)"
    if isinstance(outline, dict):
        if outline.get("size") != [image.height, image.width]:
            return "masks whose size differs from their image"
        annotation.segmentation = run_lengths(outline.get("counts"), image.height, image.width)
    else:
        annotation.segmentation = _polygons(outline, image.height, image.width)
    if not annotation.segmentation:
        return "damaged masks: neither run lengths nor polygons near their image"
    return ""


def _polygons(outline: Any, height: int, width: int) -> list[list[float]]:
    """Return the polygons with at least three points; none if one is damaged.

    None may reach further beyond the image than it is wide or high: drawing takes memory by length.
    """
    drawn = []
    try:
        for polygon in outline:
            xs, ys = polygon[::2], polygon[1::2]
            if len(xs) != len(ys) or not math.isfinite(sum(polygon)):
                return []
            if len(xs) < 3:
                continue
            if min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height:
                return []
            drawn.append(polygon)
    except (OverflowError, TypeError):
        return []
    return drawn


def run_lengths(counts: Any, height: int, width: int) -> str:
    """Return run lengths in COCO's compressed format; empty if they do not fill the image.

    The C code that decodes them does not check them. A number is stored in groups of five bits, the
    lowest first, each in a character from 48 on: bit 5 says that another group follows, and bit 4
    of the last is the sign. From the fourth number on, it is the difference from the last but one
    (pycocotools, ``rleToString``).
    """
    from faster_coco_eval.core import mask

    is_list = isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    numbers = np.array(counts if is_list else [])
    if isinstance(counts, str) and counts:
        groups = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
        ends = np.flatnonzero(groups & 32 == 0)
        starts = np.concatenate([[0], ends[:-1] + 1])
        if groups.min() < 0 or groups.max() > 63 or groups[-1] & 32 or max(ends - starts) >= 7:
            return ""
        places = np.arange(len(groups)) - np.repeat(starts, ends - starts + 1)
        numbers = np.add.reduceat((groups & 31) << 5 * places, starts)
        numbers -= np.where(groups[ends] & 16, 32 << 5 * places[ends], 0)
        for first in (1, 2):
            numbers[first::2] = np.cumsum(numbers[first::2])
    pixels = height * width
    whole = numbers.dtype.kind == "i" and ((numbers >= 0) & (numbers <= pixels)).all()
    if not whole or numbers.sum() != pixels:
        return ""
    if isinstance(counts, str):
        return counts
    runs = mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
    return runs.decode()
