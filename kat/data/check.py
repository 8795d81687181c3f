"""Checks every image and annotation of a dataset, before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import UnreadableImage, decode_bytes, read_image
from kat.data.dense.coco.dataset import CocoSource, decode_masks, other_size
from kat.data.dense.coco.layout import find_coco
from kat.data.dense.coco.table import read_table
from kat.data.dense.coco.validation import annotation_problems, unused_categories
from kat.data.dense.segmentation.dataset import (
    IGNORE,
    MaskSource,
    decode_mask,
    present_values,
    unpaired_problems,
    wrong_values,
)
from kat.data.dense.segmentation.layout import LAYOUTS
from kat.data.dense.validation import Problem, problems_of
from kat.data.sources.registry import open_split
from kat.errors import InputError, MissingFile, UnreadableFile
from kat.files import open_input
from kat.text import listing, quoted

SPLITS = ("train", "val")

Cases = Iterable[tuple[str, str]]
"""The problems of one image: the kind of each, and the case to show."""

_MISSING, _UNREADABLE = "missing images", "unreadable images"
_RESIZED = "images whose size differs from their annotations"
_DAMAGED = "images whose masks have damaged run lengths"
_MASK_UNREADABLE = "unreadable masks"
_MASK_RESIZED = "masks whose size differs from their image"
_NO_CLASS = "masks with values that are not a class"
_ONE_CLASS = "splits whose masks hold at most one class beside 255"
_OF_IMAGES = (_MISSING, _UNREADABLE, _RESIZED, _MASK_UNREADABLE, _MASK_RESIZED)
_REMEDIES = {
    **dict.fromkeys(_OF_IMAGES, "such images are left out"),
    _NO_CLASS: "such pixels have no class",
}
"""What ``bad_annotations="skip"`` does about each kind; it cannot help with the others."""

_CHUNK = 4096


@dataclass(frozen=True)
class SplitReport:
    """The contents of a split and its problems.

    Args:
        split: ``"train"`` or ``"val"``.
        images: number of images.
        contents: the annotations, in words.
        classes: class names.
        problems: all problems that were found.
        unused: classes that do not occur, which is not a problem by itself.
    """

    split: str
    images: int
    contents: str
    classes: list[str]
    problems: list[Problem]
    unused: list[str] = field(default_factory=list)


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
        headers_only: whether to read only the size of images, which finds missing images and wrong
            sizes, but not all damaged images. Masks are always read.
        tell: called with the number of checked images and the number of all images.

    Raises:
        InputError: the data cannot be opened at all.
    """
    kind, _, path = config.name.partition(":")
    inspection = _Inspection(_header if headers_only else _decoded, config.num_workers, tell)
    if kind == "coco":
        return _check_coco(Path(path), split, inspection)
    if kind in LAYOUTS:
        return _check_masks(kind, Path(path), split, inspection)
    data = open_split(config, split)
    if not isinstance(data, ImageDataset):
        raise InputError(f"{config.name!r} is a stream, whose images cannot be checked one by one")
    return _check_images(data, split, inspection)


def class_problems(reports: list[SplitReport]) -> list[Problem]:
    """The classes that are in one split and not in the other."""
    cases = [
        f"{name!r}: the {other.split} split lacks it"
        for report in reports
        for other in reports
        for name in report.classes
        if name not in other.classes
    ]
    if not cases and len({tuple(report.classes) for report in reports}) > 1:
        cases = ["the classes of the splits are in different orders"]
    return problems_of("classes in one split alone", cases)


def _check_coco(root: Path, split: str, inspection: _Inspection) -> SplitReport:
    files = find_coco(root, split)
    table = read_table(files.annotations)
    problems, valid = annotation_problems(table)
    report = SplitReport(
        split,
        len(table.image_ids),
        f"{len(table.ids)} annotations ({int(table.crowd.sum())} crowds)",
        table.categories,
        problems,
        unused_categories(table, valid),
    )
    if any(problem.fatal(skip=True) for problem in problems):
        return report
    source = CocoSource(str(files.images), table, valid)

    def cases(index: int) -> Iterator[tuple[str, str]]:
        name, (height, width) = source.name(index), table.sizes[index].tolist()
        size = inspection.read_size(name)
        if size != (width, height):
            yield _RESIZED, f"{name}: {other_size(size, (width, height))}"
            return
        decode_masks(source.annotation(index), name)

    problems += inspection.problems(cases, source)
    return report


def _check_masks(layout: str, root: Path, split: str, inspection: _Inspection) -> SplitReport:
    files = LAYOUTS[layout](root, split)
    source = MaskSource(files)
    classes = len(files.classes)
    seen = np.zeros(IGNORE + 1, bool)

    def cases(index: int) -> Iterator[tuple[str, str]]:
        width, height = inspection.read_size(source.name(index))
        path, content = source.mask(index)
        try:
            values = decode_mask(content, path)
        except UnreadableImage as error:
            yield _MASK_UNREADABLE, str(error)
            return
        if values.shape != (height, width):
            found_size = f"{values.shape[1]}x{values.shape[0]}"
            yield _MASK_RESIZED, f"{path}: {found_size}, not {width}x{height}"
        present = present_values(values)
        wrong = wrong_values(present, files.zero_is_unlabeled, classes)
        if len(wrong):
            yield _NO_CLASS, f"{path}: {listing(wrong, 5)} of {classes} classes"
        seen[present[(present >= 0) & (present <= IGNORE)]] = True

    problems = unpaired_problems(files) + inspection.problems(cases, source)
    first = 1 if files.zero_is_unlabeled else 0
    unused = [name for i, name in enumerate(files.classes, first) if not seen[i]]
    if unused and seen[IGNORE] and len(unused) >= classes - 1:
        listed = quoted(unused, "class", "classes")
        case = f"{files.masks}: 255 is not a class; does it stand for {listed}?"
        problems += problems_of(_ONE_CLASS, [case])
    return SplitReport(split, len(source), "one mask per image", files.classes, problems, unused)


def _check_images(data: ImageDataset, split: str, inspection: _Inspection) -> SplitReport:
    """Checks that every labeled image can be read."""

    def cases(index: int) -> Iterator[tuple[str, str]]:
        data.decode(data.read(index)[0], index)
        yield from ()

    problems = [
        *problems_of("files that are not images", list(data.ignored), "they are left out"),
        *inspection.problems(cases, data),
    ]
    return SplitReport(split, len(data), "one class per image", data.classes, problems)


def _decoded(path: str) -> tuple[int, int]:
    return decode_bytes(read_image(path), path).size


def _header(path: str) -> tuple[int, int]:
    try:
        with open_input(path) as file, Image.open(file) as image:
            return image.size
    except MissingFile:
        raise
    except Exception as error:  # Pillow raises nearly every kind for damaged files
        raise UnreadableImage(path, str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Inspection:
    """How images are checked.

    Args:
        read_size: maps the path of an image to its width and height.
        threads: number of images that are checked at the same time; at least one.
        tell: called with the number of checked images and the number of all images.
    """

    read_size: Callable[[str], tuple[int, int]]
    threads: int
    tell: Callable[[int, int], None]

    def problems(self, cases: Callable[[int], Cases], source: Sized) -> list[Problem]:
        """The problems of the images of a source, sorted by kind."""

        def all_cases(index: int) -> list[tuple[str, str]]:
            try:
                return list(cases(index))
            except MissingFile as error:
                return [(_MISSING, str(error.args[0]))]
            except (UnreadableFile, UnreadableImage) as error:
                return [(_UNREADABLE, str(error))]
            except InputError as error:
                return [(_DAMAGED, str(error))]

        by_kind: dict[str, list[str]] = {}
        count = len(source)
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            for start in range(0, count, _CHUNK):
                chunk = range(start, min(start + _CHUNK, count))
                for index, found in zip(chunk, pool.map(all_cases, chunk), strict=True):
                    for kind, case in found:
                        by_kind.setdefault(kind, []).append(case)
                    self.tell(index + 1, count)
        return [
            problem
            for kind, listed in sorted(by_kind.items())
            for problem in problems_of(kind, listed, _REMEDIES.get(kind, ""))
        ]
