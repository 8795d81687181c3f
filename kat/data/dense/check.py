"""A look at every image and annotation of a data set before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from kat.data.config import DataConfig
from kat.data.dataset import ImageSet
from kat.data.decoding import UnreadableImage, decode
from kat.data.dense.coco.dataset import CocoSource, decode_masks, other_size
from kat.data.dense.coco.layout import find_coco
from kat.data.dense.coco.problems import annotation_problems, unused_categories
from kat.data.dense.coco.table import read_table
from kat.data.dense.problems import Problem, found
from kat.data.dense.semantic.dataset import (
    IGNORE,
    MaskSource,
    decode_mask,
    present_values,
    unpaired_problems,
    wrong_values,
)
from kat.data.dense.semantic.layout import LAYOUTS
from kat.data.sources.registry import open_split
from kat.errors import InputError
from kat.text import listing, quoted

SPLITS = ("train", "val")

Faults = Iterable[tuple[str, str]]
"""Kinds of what is wrong with one image, each with the example to show."""

_MISSING, _UNREADABLE = "missing images", "unreadable images"
_RESIZED = "images of another size than the annotations say"
_DAMAGED = "images whose masks have damaged run lengths"
_MASK_UNREADABLE = "unreadable masks"
_MASK_RESIZED = "masks of another size than their image"
_NO_CLASS = "masks with values that are no class"
_ONE_CLASS = "splits whose masks hold one class at most beside 255"
_OF_IMAGES = (_MISSING, _UNREADABLE, _RESIZED, _MASK_UNREADABLE, _MASK_RESIZED)
_SKIPPED = {
    **dict.fromkeys(_OF_IMAGES, "such images are left out"),
    _NO_CLASS: "such pixels have no class",
}
"""What skipping does about each kind; there is no way around the others."""

_AT_ONCE = 4096


@dataclass(frozen=True)
class SplitReport:
    """What a split holds, and what is wrong with it.

    Args:
        split: ``"train"`` or ``"val"``.
        images: how many.
        contents: what else there is, in words.
        classes: their names.
        problems: what is wrong.
        unused: classes that do not occur; no fault in itself.
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
    """Looks at every image and annotation of a split.

    Args:
        config: names the data; ``workers`` threads look, at least one.
        split: ``"train"`` or ``"val"``.
        headers_only: whether of images only the size is read, which finds missing ones and those of
            another size, but not all damaged ones. Masks are read in any case.
        tell: told how many images of how many are done.

    Raises:
        InputError: what there is cannot be opened at all.
    """
    kind, _, path = config.name.partition(":")
    inspection = _Inspection(_header if headers_only else _decoded, config.num_workers, tell)
    if kind == "coco":
        return _check_coco(Path(path), split, inspection)
    if kind in LAYOUTS:
        return _check_semantic(kind, Path(path), split, inspection)
    data = open_split(config, split)
    if not isinstance(data, ImageSet):
        raise InputError(
            f"{config.name!r} is a stream, which has no images that could be looked up"
        )
    return _check_images(data, split, inspection)


def class_problems(reports: list[SplitReport]) -> list[Problem]:
    """The classes that one split has and the other has not."""
    examples = [
        f"{name!r}: the {other.split} split lacks it"
        for report in reports
        for other in reports
        for name in report.classes
        if name not in other.classes
    ]
    if not examples and len({tuple(report.classes) for report in reports}) > 1:
        examples = ["the classes of the splits are in different orders"]
    return found("classes of one split alone", examples)


def _check_coco(root: Path, split: str, inspection: _Inspection) -> SplitReport:
    place = find_coco(root, split)
    table = read_table(place.annotations)
    problems, good = annotation_problems(table)
    report = SplitReport(
        split,
        len(table.image_ids),
        f"{len(table.ids)} annotations ({int(table.crowd.sum())} crowds)",
        table.categories,
        problems,
        unused_categories(table, good),
    )
    if any(problem.fatal(skip=True) for problem in problems):
        return report
    source = CocoSource(str(place.images), table, good)

    def faults(index: int) -> Iterator[tuple[str, str]]:
        name, (height, width) = source.name(index), table.sizes[index].tolist()
        size = inspection.look(name)
        if size != (width, height):
            yield _RESIZED, f"{name}: {other_size(size, (width, height))}"
            return
        decode_masks(source.annotation(index), name)

    problems += inspection.problems(faults, source)
    return report


def _check_semantic(layout: str, root: Path, split: str, inspection: _Inspection) -> SplitReport:
    place = LAYOUTS[layout](root, split)
    source = MaskSource(place)
    classes = len(place.classes)
    seen = np.zeros(IGNORE + 1, bool)

    def faults(index: int) -> Iterator[tuple[str, str]]:
        width, height = inspection.look(source.name(index))
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
        wrong = wrong_values(present, place.zero_is_unlabelled, classes)
        if len(wrong):
            yield _NO_CLASS, f"{path}: {listing(wrong, 5)} of {classes} classes"
        seen[present[(present >= 0) & (present <= IGNORE)]] = True

    problems = unpaired_problems(place) + inspection.problems(faults, source)
    first = 1 if place.zero_is_unlabelled else 0
    unused = [name for i, name in enumerate(place.classes, first) if not seen[i]]
    if unused and seen[IGNORE] and len(unused) >= classes - 1:
        listed = quoted(unused, "class", "classes")
        problems += found(
            _ONE_CLASS, [f"{place.masks}: 255 is no class; is it meant for {listed}?"]
        )
    return SplitReport(split, len(source), "a mask each", place.classes, problems, unused)


def _check_images(data: ImageSet, split: str, inspection: _Inspection) -> SplitReport:
    """Of labelled images: whether each can be read."""

    def faults(index: int) -> Iterator[tuple[str, str]]:
        data.decode(data.read(index)[0], index)
        yield from ()

    problems = [
        *found("files that are no images", list(data.ignored), "they are left out"),
        *inspection.problems(faults, data),
    ]
    return SplitReport(split, len(data), "a class each", data.classes, problems)


def _decoded(path: str) -> tuple[int, int]:
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    return decode(path).size


def _header(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except FileNotFoundError:
        raise FileNotFoundError(path) from None
    except Exception as error:  # of damaged files Pillow raises nearly every kind
        raise UnreadableImage(path, str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class _Inspection:
    """How images are looked at.

    Args:
        look: of the path of an image to its width and height.
        threads: how many are looked at together; at least one.
        tell: told how many images of how many are done.
    """

    look: Callable[[str], tuple[int, int]]
    threads: int
    tell: Callable[[int, int], None]

    def problems(self, faults: Callable[[int], Faults], source: Sized) -> list[Problem]:
        """What is wrong with the images of a source, by kind."""

        def all_of(index: int) -> list[tuple[str, str]]:
            try:
                return list(faults(index))
            except FileNotFoundError as error:
                return [(_MISSING, str(error))]
            except (OSError, UnreadableImage) as error:
                return [(_UNREADABLE, str(error))]
            except InputError as error:
                return [(_DAMAGED, str(error))]

        examples: dict[str, list[str]] = {}
        count = len(source)
        with ThreadPoolExecutor(max(1, self.threads)) as pool:
            for start in range(0, count, _AT_ONCE):
                chunk = range(start, min(start + _AT_ONCE, count))
                for index, several in zip(chunk, pool.map(all_of, chunk), strict=True):
                    for kind, example in several:
                        examples.setdefault(kind, []).append(example)
                    self.tell(index + 1, count)
        return [
            problem
            for kind, listed in sorted(examples.items())
            for problem in found(kind, listed, _SKIPPED.get(kind, ""))
        ]
