"""Which logit of a model stands for which class of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from timm.data import ImageNetInfo

from kat.errors import InputError

IMAGENET = 1000
"""Classes of ImageNet-1k."""


class ClassMatch(NamedTuple):
    """How the classes of a dataset lie among those of a model.

    Args:
        columns: the index among the model's classes of each class of the data.
        basis: what they were matched by: ``"names"``, ``"ImageNet"`` (synsets on one side, their
            numbers on the other) or ``"position"``, which is what remains where one side has
            numbers for names.
        notes: what a user should know of it, one line each.
    """

    columns: list[int]
    basis: str
    notes: list[str]


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1000 synsets of ImageNet-1k, in order of their index, as timm has them."""
    return tuple(ImageNetInfo().label_names())


def imagenet_indices(names: Sequence[str]) -> list[int] | None:
    """The indices in ImageNet-1k of classes named by synsets, or by the indices themselves.

    None where a name is neither, or where the names are of both kinds.
    """
    for known in (imagenet_synsets(), numbers(IMAGENET)):
        index = {name: i for i, name in enumerate(known)}
        if names and index.keys() >= set(names):
            return [index[name] for name in names]
    return None


def numbers(count: int) -> list[str]:
    """The names that classes without names have: "0", "1", ..."""
    return [str(index) for index in range(count)]


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> ClassMatch:
    """Finds each class of the data among those of the model.

    Classes in another order give answers near chance, without any other sign of it; so they are
    matched by name wherever there are names.

    Args:
        ours: the classes of the model, in order of its logits.
        theirs: the classes of the data, in order of its labels; all or some of the model's.

    Raises:
        InputError: they are not the model's, or not in its order where that cannot be mended.
    """
    by_name = _lookup(ours, theirs)
    if by_name is not None:
        return ClassMatch(by_name, "names", _notes(by_name, len(ours)))
    indices, wanted = imagenet_indices(ours), imagenet_indices(theirs)
    if len(ours) == IMAGENET and indices is not None and wanted is not None:
        columns = _lookup(indices, wanted)
        if columns is not None:
            note = "note: synsets of ImageNet on one side, their numbers on the other"
            return ClassMatch(columns, "ImageNet", [note, *_notes(columns, len(ours))])
    if len(ours) != len(theirs):
        strange = next(name for name in theirs if name not in ours)
        raise InputError(
            f"the model knows {len(ours)} classes and the data has {len(theirs)}, of which"
            f" {strange!r} is none of the model's"
        )
    if numbers(len(ours)) in (list(ours), list(theirs)):
        note = "note: one side has numbers for class names, so they were not compared"
        return ClassMatch(list(range(len(ours))), "position", [note])
    index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise InputError(
        f"class {index} is {ours[index]!r} to the model and {theirs[index]!r} in the data; the"
        " classes must have the names that the model was trained with"
    )


def _lookup(ours: Sequence[Any], theirs: Sequence[Any]) -> list[int] | None:
    """Where each of theirs is among ours, or None where one is not, or there are doubles."""
    index = {name: i for i, name in enumerate(ours)}
    whole = len(index) == len(ours) and len(set(theirs)) == len(theirs)
    return [index[name] for name in theirs] if whole and index.keys() >= set(theirs) else None


def _notes(columns: list[int], count: int) -> list[str]:
    if len(columns) < count:
        return [
            f"note: the data has {len(columns)} of the model's {count} classes; the model chooses"
            " among these alone"
        ]
    if columns != sorted(columns):
        return ["note: the data has the model's classes in another order; they go by their names"]
    return []
