"""Classes that have numbers instead of names, and labels that are none of the classes."""

from __future__ import annotations

from kat.errors import InputError
from kat.text import numbered

_MOST = 100_000
"""More classes than any dataset of images has: such labels are ids of something else."""


def numbered_classes(count: int | None, largest: int, title: str) -> list[str]:
    """The classes 0, 1, ... of a dataset without names, so many or up to the largest label.

    Raises:
        InputError: no number is given, and the labels are too large to be class indices.
    """
    if count is None and largest >= _MOST:
        raise InputError(
            f"{title} has the label {largest}, which would make {largest + 1:,} classes: labels are"
            " class indices from 0 on; give data.num_classes if there are so many"
        )
    return numbered(largest + 1 if count is None else count)


def check_num_classes(given: int | None, known: int, title: str) -> None:
    """Checks that ``data.num_classes``, if it is given, is the number of names of the data.

    Raises:
        InputError: it is another one.
    """
    if given not in (None, known):
        raise InputError(
            f"data.num_classes is {given}, but {title} names {known} classes: leave it out"
        )


def wrong_label(name: str, label: int, count: int) -> str:
    """What is wrong with the label of an image that is none of so many classes."""
    return f"{name} has the label {label}, but the {count} classes are 0 to {count - 1}"
