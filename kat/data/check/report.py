"""The result of a check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kat.data.dense.validation import Problem

SPLITS = ("train", "val")
"""The splits that a dataset may have.

Examples:
    >>> from kat.data.check import SPLITS
    >>> SPLITS
    ('train', 'val')
"""


@dataclass(frozen=True)
class SplitReport:
    """The contents of a split and its problems.

    Args:
        split: ``"train"`` or ``"val"``.
        images: number of images.
        contents: the annotations, in words.
        classes: the number of images of each class; for COCO, of annotations.
        problems: all problems that were found.
        turned: number of images that are turned upright as their EXIF says.
        hashes: (images,) uint64, of the bytes of each image; 0 for those that cannot be read.
        labels: (images,) class indices; None if an image has no one class.
        name: maps an index to the name of the image.

    Examples:
        >>> from kat.data import DataConfig
        >>> from kat.data.check import check_split
        >>> report = check_split(DataConfig("folder:photos"), "train")
        >>> report.images, report.classes
        (8, {'cat': 4, 'dog': 4})
    """

    split: str
    images: int
    contents: str
    classes: dict[str, int]
    problems: list[Problem]
    turned: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    labels: np.ndarray | None = None
    name: Callable[[int], str] = str

    @property
    def unused(self) -> list[str]:
        """The classes without an example, which is not a problem by itself."""
        return [name for name, count in self.classes.items() if not count]

    def to_dict(self, skipped: Collection[str]) -> dict[str, Any]:
        """The report as JSON types.

        Args:
            skipped: the settings that are ``"skip"``, as for :meth:`Problem.fatal`.
        """
        return {
            "split": self.split,
            "images": self.images,
            "contents": self.contents,
            "classes": self.classes,
            "turned_by_exif": self.turned,
            "problems": as_dicts(self.problems, skipped),
        }


def as_dicts(problems: Sequence[Problem], skipped: Collection[str]) -> list[dict[str, Any]]:
    """The problems as JSON types, with all of their cases."""
    return [
        {
            "kind": problem.kind,
            "severity": problem.severity(skipped),
            "count": problem.count,
            "remedy": problem.remedy,
            "cases": list(problem.cases),
        }
        for problem in problems
    ]
