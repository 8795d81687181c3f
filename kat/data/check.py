"""Checks every image and annotation of a dataset, before training."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from kat.data.config import DataConfig
from kat.data.dataset import ImageDataset
from kat.data.decoding import UnreadableImage, is_transparent
from kat.data.dense.coco import BEYOND
from kat.data.dense.segmentation import IGNORE, SegmentationDataset
from kat.data.sources.folder import EMPTY
from kat.data.sources.registry import open_split
from kat.errors import InputError, MissingFile
from kat.text import quoted

_IGNORED, _MISSING, _UNREADABLE = "files that are left out", "missing images", "unreadable images"
_NO_CLASS = "masks with values that are not a class"
_TRANSPARENT = "images with transparency"
_NO_IMAGE = "splits without an image that can be read"
_USED, _LEFT_OUT = "training uses them as they are", "they are left out"
_REMEDIES: dict[str, tuple[str, str | None]] = {
    EMPTY: ("", None),
    _NO_IMAGE: ("", None),
    _TRANSPARENT: ("training shows the colors under it as they are stored", None),
    BEYOND: (_USED, "bad_annotations"),
    _NO_CLASS: ("such pixels have no class", "bad_annotations"),
    **dict.fromkeys((_IGNORED, _MISSING, _UNREADABLE), (_LEFT_OUT, "bad_images")),
}
"""The remedy and the setting of each kind of problem but those of annotations."""
_OF_ANNOTATION = (_LEFT_OUT, "bad_annotations")
_CHUNK = 4096
"""The most images that wait for a thread."""


@dataclass(frozen=True)
class Problem:
    """A kind of problem, and its cases.

    Args:
        kind: name of the kind, in the plural.
        cases: all of them, at least one.
        remedy: what training does about the cases; empty if they stop it whatever the settings.
        setting: the setting of the data that must be ``"skip"`` for that; None: training always
            does it.
    """

    kind: str
    cases: Sequence[str]
    remedy: str = ""
    setting: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {len(self.cases)}, first {self.cases[0]:.300}"

    def severity(self, skipped: Collection[str]) -> str:
        """``"fatal"``, ``"skipped"`` for what training leaves out, or ``"warning"``.

        Args:
            skipped: the settings that are ``"skip"``.
        """
        if not self.remedy or (self.setting is not None and self.setting not in skipped):
            return "fatal"
        return "skipped" if self.setting and self.remedy != _USED else "warning"

    def to_dict(self, skipped: Collection[str]) -> dict[str, Any]:
        """Return the problem as JSON types."""
        return {
            "kind": self.kind,
            "severity": self.severity(skipped),
            "count": len(self.cases),
            "remedy": self.remedy,
            "cases": list(self.cases),
        }


@dataclass(frozen=True)
class SplitReport:
    """The contents of a split and its problems.

    Args:
        split: ``"train"`` or ``"val"``.
        contents: the images and annotations, in words.
        classes: the number of images of each class; for COCO, of annotations.
        problems: all problems that were found.
        notes: what is no problem by itself, such as classes without an example.
        hashes: (images,) uint64, of the bytes of each image; 0 for those that cannot be read.
        labels: the class of each image; None if it has no one class.
        name: maps an index to the name of the image.

    Examples:
        >>> from kat.data import DataConfig, check_split
        >>> report = check_split(DataConfig("folder:photos"), "train")
        >>> report.contents, report.classes
        ('8 images, one class per image', {'cat': 4, 'dog': 4})
    """

    split: str
    contents: str
    classes: dict[str, int]
    problems: list[Problem]
    notes: list[str]
    hashes: np.ndarray
    labels: Sequence[str | None] = ()
    name: Callable[[int], str] = str


def check_split(
    config: DataConfig, split: str, *, tell: Callable[..., None] = lambda **progress: None
) -> SplitReport:
    """Check every image and annotation of a split.

    Args:
        config: the settings of the data; ``num_workers`` is the number of threads, at least one.
        split: ``"train"`` or ``"val"``.
        tell: called with ``completed``, the number of checked images, and ``total``, of all.

    Raises:
        InputError: the data cannot be opened at all.

    Examples:
        >>> from kat.data import DataConfig, check_split
        >>> check_split(DataConfig("folder:photos"), "val").problems
        []
    """
    lenient = replace(config, bad_images="skip", bad_annotations="skip")
    data = open_split(lenient, split, strict=False)
    if isinstance(data, SegmentationDataset):
        data.skip = False  # values that are not a class are then found
    hashes = np.zeros(len(data), np.uint64)
    labels: list[str | None] = [None] * len(data)
    counts: Counter[int] = Counter()
    found: dict[str, list[str]] = defaultdict(list, data.problems)
    for path, reason in data.ignored.items():
        found[_IGNORED].append(f"{path}: {reason}")
    with ThreadPoolExecutor(max(1, config.num_workers)) as pool:
        for start in range(0, len(data), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(data)))
            checks = pool.map(lambda index: _examined(data, index), chunk)
            for index, (digest, classes, problem) in zip(chunk, checks, strict=True):
                hashes[index] = digest
                counts.update(classes)
                if data.task == ImageDataset.task and classes:
                    labels[index] = data.classes[classes[0]]
                if problem:
                    found[problem[0]].append(problem[1])
                tell(completed=index + 1, total=len(data))
    if not hashes.any():
        found[_NO_IMAGE].append(f"none of its {len(data)} images")
    problems = []
    for kind, cases in found.items():
        remedy, setting = _REMEDIES.get(kind, _OF_ANNOTATION)
        problems.append(Problem(kind, cases, remedy, setting))
    labels_are = data.labels_are or f"{sum(counts.values())} annotations"
    sizes = {name: counts[index] for index, name in enumerate(data.classes)}
    return SplitReport(
        split,
        f"{len(data)} images, {labels_are}",
        sizes,
        problems + _classes_without_use(data, counts),
        _notes(data, sizes, split),
        hashes,
        labels,
        data.name,
    )


def _examined(data: ImageDataset, index: int) -> tuple[int, list[int], tuple[str, str] | None]:
    """Return the hash of an image, the classes in it, and the kind of its problem with the case."""
    try:
        encoded, label = data.read(index)
        _, target = data.transformed(data.decode(encoded, label, index), label, index)
    except UnreadableImage as error:
        if isinstance(error.__cause__, MissingFile):
            return 0, [], (_MISSING, error.name)
        return 0, [], (_UNREADABLE, str(error))
    except InputError as error:
        return 1, [], (_NO_CLASS, str(error).partition(";")[0])
    content = encoded if isinstance(encoded, bytes) else encoded.tobytes()
    digest = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1
    problem = (_TRANSPARENT, data.name(index)) if is_transparent(encoded) else None
    if isinstance(target, int):
        return digest, [target], problem
    classes = target["labels"] if isinstance(target, dict) else target.unique()
    return digest, classes.tolist(), problem


def _notes(data: ImageDataset, sizes: Mapping[str, int], split: str) -> list[str]:
    least, what = (5, "fewer than 5 examples") if split == "val" else (1, "no example")
    few = [name for name, size in sizes.items() if size < least]
    uneven = "" if split == "val" else data.imbalance()
    notes = (uneven, few and f"{what} of {quoted(few, 'class', 'classes')}")
    return [note for note in notes if note]


def _classes_without_use(data: ImageDataset, counts: Counter[int]) -> list[Problem]:
    if data.task == ImageDataset.task and len(data.classes) == 1:
        kind = "splits of a single class, which leaves a classifier nothing to tell apart"
        return [Problem(kind, [repr(data.classes[0])])]
    unused = [name for index, name in enumerate(data.classes) if not counts[index]]
    masks = isinstance(data, SegmentationDataset) and not data.zero_is_unlabeled
    if masks and counts[IGNORE] and unused and len(unused) >= len(data.classes) - 1:
        case = f"255 is not a class; does it stand for {quoted(unused, 'class', 'classes')}?"
        kind = "splits whose masks hold at most one class beside 255"
        return [Problem(kind, [case], "training sees no other class")]
    return []


def between_splits(reports: Sequence[SplitReport]) -> list[Problem]:
    """Find classes that only one split has, and images that are in two classes or two splits.

    Images are the same if their bytes have the same hash.

    Examples:
        >>> from kat.data import DataConfig, between_splits, check_split
        >>> config = DataConfig("folder:photos")
        >>> reports = [check_split(config, split) for split in ("train", "val")]
        >>> between_splits(reports)
        []
    """
    alone = []
    for report, other in permutations(reports, 2):
        lacking = [name for name in report.classes if name not in other.classes]
        alone += [f"{name!r}: the {other.split} split lacks it" for name in lacking]
    if not alone and len({tuple(report.classes) for report in reports}) > 1:
        alone = ["the classes of the splits are in different orders"]
    hashes = np.concatenate([report.hashes for report in reports])
    values, times = np.unique(hashes[hashes > 1], return_counts=True)
    same: dict[int, list[tuple[SplitReport, int]]] = {int(v): [] for v in values[times > 1]}
    for report in reports:
        for index, value in enumerate(report.hashes.tolist()):
            if value in same:
                same[value].append((report, index))
    two_classes, two_splits = [], []
    for group in same.values():
        listed = " = ".join(_place(report, index) for report, index in group)
        if len({report.labels[index] for report, index in group}) > 1:
            two_classes.append(listed)
        if len({report.split for report, _ in group}) > 1:
            two_splits.append(listed)
    problems = (
        Problem("classes in one split alone", alone),
        Problem("images in two classes", two_classes, _USED),
        Problem("images in two splits", two_splits, _USED),
    )
    return [problem for problem in problems if problem.cases]


def _place(report: SplitReport, index: int) -> str:
    """Return the name of an image, with its split and its class, if it has one."""
    label = report.labels[index]
    place = report.split if label is None else f"{report.split}, class {label!r}"
    return f"{report.name(index)} ({place})"
