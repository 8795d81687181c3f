"""Checks a split: its images, boxes and masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from kat.data.check.images import (
    MASK_RESIZED,
    MASK_UNREADABLE,
    NO_CLASS,
    RESIZED,
    Case,
    Inspection,
)
from kat.data.check.report import SplitReport
from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import Size, UnreadableImage
from kat.data.dense.coco.dataset import Annotation, CocoSource, DetectionDataset, other_size
from kat.data.dense.coco.layout import find_coco
from kat.data.dense.coco.table import read_table
from kat.data.dense.coco.validation import annotation_problems, category_counts
from kat.data.dense.segmentation.dataset import (
    IGNORE,
    MaskSource,
    SegmentationDataset,
    decode_mask,
    present_values,
    unpaired_problems,
    wrong_values,
)
from kat.data.dense.segmentation.layout import LAYOUTS
from kat.data.dense.validation import problems_of
from kat.data.sources.registry import check_used_by_data, open_split
from kat.errors import InputError
from kat.text import listing, quoted

_SINGLE_CLASS = "splits of a single class, which leaves a classifier nothing to tell apart"
_ONE_CLASS = "splits whose masks hold at most one class beside 255"


def check_split(
    config: DataConfig,
    split: str,
    *,
    headers_only: bool = False,
    tell: Callable[[int, int], None] = lambda done, all: None,
) -> SplitReport:
    """Checks every image and annotation of a split.

    Args:
        config: the settings of the data; ``num_workers`` is the number of threads, at least one.
        split: ``"train"`` or ``"val"``.
        headers_only: whether to read only the headers of images, which finds missing images and
            wrong sizes, but not all damaged images. Masks are always read.
        tell: called with the number of checked images and the number of all images.

    Raises:
        InputError: the data cannot be opened at all.

    Examples:
        >>> from kat.data import DataConfig
        >>> from kat.data.check import check_split
        >>> check_split(DataConfig("folder:photos"), "val").problems
        []
    """
    check_used_by_data(config)
    kind, _, path = config.name.partition(":")
    inspection = Inspection(headers_only, config.exif, config.num_workers, tell)
    if kind == "coco":
        return _check_coco(Path(path), split, inspection, config.boxes_only)
    if kind in LAYOUTS:
        return _check_masks(kind, Path(path), split, inspection)
    data = open_split(config, split)
    if not isinstance(data, ImageDataset):
        raise InputError(f"{config.name!r} is a stream, whose images cannot be checked one by one")
    return _check_images(data, split, inspection)


def _check_coco(root: Path, split: str, inspection: Inspection, boxes_only: bool) -> SplitReport:
    files = find_coco(root, split)
    table = read_table(files.annotations, boxes_only)
    problems, valid = annotation_problems(table, files)
    kind = "annotations" if table.has_masks else "boxes without masks"
    contents = f"{len(table.ids)} {kind} ({int(table.crowd.sum())} crowds)"
    classes = category_counts(table, valid)
    if any(not problem.remedy for problem in problems):
        return SplitReport(split, len(table.image_ids), contents, classes, problems)
    source = CocoSource(str(files.images), table, valid)

    def cases(annotation: Annotation, size: Size, name: str) -> Iterator[Case]:
        height, width = annotation.size
        if size != (width, height):
            yield RESIZED, f"{name}: {other_size(size, (width, height))}"

    data = DetectionDataset(source, table)
    found = inspection.images(data, cases)
    return SplitReport(
        split,
        len(source),
        contents,
        classes,
        problems + found.problems,
        found.turned,
        found.hashes,
        name=source.name,
    )


def _check_masks(layout: str, root: Path, split: str, inspection: Inspection) -> SplitReport:
    files = LAYOUTS[layout](root, split)
    source = MaskSource(files)
    first, count = (1 if files.zero_is_unlabeled else 0), len(files.classes)
    images_with, lock = np.zeros(IGNORE + 1, np.int64), Lock()

    def cases(mask: tuple[str, bytes], size: Size, name: str) -> Iterator[Case]:
        path, content = mask
        try:
            values = decode_mask(content, path)
        except UnreadableImage as error:
            yield MASK_UNREADABLE, str(error)
            return
        if values.shape != size[::-1]:
            found_size = f"{values.shape[1]}x{values.shape[0]}"
            yield MASK_RESIZED, f"{path}: {found_size}, not {size[0]}x{size[1]}"
        present = present_values(values)
        wrong = wrong_values(present, files.zero_is_unlabeled, count)
        if len(wrong):
            yield NO_CLASS, f"{path}: {listing(wrong, 5)} of {count} classes"
        with lock:
            images_with[present[(present >= 0) & (present <= IGNORE)]] += 1

    data = SegmentationDataset(source, files, skip=True)
    found = inspection.images(data, cases)
    classes = dict(zip(files.classes, images_with[first : first + count].tolist(), strict=True))
    unused = [name for name, images in classes.items() if not images]
    problems = unpaired_problems(files) + found.problems
    if unused and images_with[IGNORE] and len(unused) >= count - 1:
        listed = quoted(unused, "class", "classes")
        case = f"{files.masks}: 255 is not a class; does it stand for {listed}?"
        problems += problems_of(_ONE_CLASS, [case], "training sees no other class", setting=None)
    return SplitReport(
        split,
        len(source),
        "one mask per image",
        classes,
        problems,
        found.turned,
        found.hashes,
        name=source.name,
    )


def _check_images(data: ImageDataset, split: str, inspection: Inspection) -> SplitReport:
    """Checks that every labeled image can be read."""

    def cases(label: Any, size: Size, name: str) -> tuple[()]:
        return ()

    found = inspection.images(data, cases)
    single = list(map(repr, data.classes)) if len(data.classes) == 1 else []
    ignored = [f"{path}: {reason}" for path, reason in data.ignored.items()]
    counts = np.bincount(found.labels[found.labels >= 0], minlength=len(data.classes))
    return SplitReport(
        split,
        len(data),
        "one class per image",
        dict(zip(data.classes, counts.tolist(), strict=True)),
        problems_of("files that are left out", ignored, "they are left out", "bad_images")
        + problems_of(_SINGLE_CLASS, single)
        + found.problems,
        found.turned,
        found.hashes,
        found.labels,
        data.name,
    )
