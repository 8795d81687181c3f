"""Problems that show only when classes or splits are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kat.data.check.report import SplitReport
from kat.data.dense.validation import Problem, problems_of

_USED_AS_THEY_ARE = "training uses them as they are"


def between_splits(reports: Sequence[SplitReport]) -> list[Problem]:
    """Classes in one split alone, and images that lie in two classes or two splits.

    Images are the same if their bytes have the same hash.

    Examples:
        >>> from kat.data import DataConfig
        >>> from kat.data.check import between_splits, check_split
        >>> config = DataConfig("folder:photos")
        >>> reports = [check_split(config, split) for split in ("train", "val")]
        >>> between_splits(reports)
        []
    """
    two_classes: list[str] = []
    two_splits: list[str] = []
    for same in _equal_images(reports):
        splits = {report.split for report, _ in same}
        classes = {_class_of(report, index) for report, index in same}
        listed = " = ".join(_named(report, index) for report, index in same)
        two_splits += [listed] if len(splits) > 1 else []
        two_classes += [listed] if len(classes) > 1 else []
    return [
        *_class_problems(reports),
        *problems_of("images in two classes", two_classes, _USED_AS_THEY_ARE, setting=None),
        *problems_of("images in two splits", two_splits, _USED_AS_THEY_ARE, setting=None),
    ]


def _class_problems(reports: Sequence[SplitReport]) -> list[Problem]:
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


def _equal_images(reports: Sequence[SplitReport]) -> Iterator[list[tuple[SplitReport, int]]]:
    """Yields each group of images with the same bytes."""
    if not reports:
        return
    hashes = np.concatenate([report.hashes for report in reports])
    starts = np.cumsum([0, *(len(report.hashes) for report in reports)])
    order = np.argsort(hashes, kind="stable")
    order = order[hashes[order] != 0]
    for group in np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1):
        if len(group) > 1:
            split_of = np.searchsorted(starts, group, side="right") - 1
            yield [
                (reports[split], int(index - starts[split]))
                for split, index in zip(split_of.tolist(), group.tolist(), strict=True)
            ]


def _class_of(report: SplitReport, index: int) -> str | None:
    return None if report.labels is None else list(report.classes)[report.labels[index]]


def _named(report: SplitReport, index: int) -> str:
    name = _class_of(report, index)
    where = report.split if name is None else f"{report.split}, class {name!r}"
    return f"{report.name(index)} ({where})"
