"""Match a model with a dataset: their task, and the logits with the classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from timm.data import ImageNetInfo
from torch import nn

from kat.data import ImageDataset
from kat.errors import InputError
from kat.models.dense import task_of
from kat.text import numbered
from kat.training.tasks.registry import TASKS

IMAGENET = 1000
"""The number of classes of ImageNet-1k."""


class ClassMatch(NamedTuple):
    """A mapping from the classes of a dataset to the classes of a model.

    Args:
        columns: for each class of the data, its index among the model's classes.
        notes: remarks for the user, one line each.
    """

    columns: list[int]
    notes: list[str]


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Return the 1000 synsets of ImageNet-1k in the order of their class indices, from timm."""
    return tuple(ImageNetInfo().label_names())


def imagenet_indices(names: Sequence[str]) -> list[int] | None:
    """Return the ImageNet-1k indices of classes that are named by synset or by index.

    None if a name is neither, or if both kinds are mixed.
    """
    for known in (imagenet_synsets(), numbered(IMAGENET)):
        index = {name: i for i, name in enumerate(known)}
        if names and index.keys() >= set(names):
            return [index[name] for name in names]
    return None


def check_task(model: nn.Module, data: ImageDataset, names: tuple[str, str]) -> None:
    """Check that a model is for the task of the data.

    Args:
        model: the model to train or evaluate.
        data: the dataset.
        names: names of the model and the data, for the error message.

    Raises:
        InputError: the model is for another task.
    """
    if task_of(model) != data.task:
        raise InputError(
            f"{names[1]} is data for {data.task}, but {names[0]} is for {task_of(model)}; models"
            f" for {data.task} are {TASKS[data.task].example_models}"
        )


def match_classes(ours: Sequence[str], theirs: Sequence[str]) -> ClassMatch:
    """Find each class of the data among the model's classes.

    A wrong class order silently gives metrics near chance. Classes are therefore matched by name
    whenever both sides have names.

    Args:
        ours: class names of the model, in the order of its logits.
        theirs: class names of the data, in the order of its labels; all or some of the model's.

    Raises:
        InputError: the data has other classes than the model.
    """
    same = list(ours) == list(theirs)  # also where two classes have one name
    by_name = list(range(len(ours))) if same else _lookup(ours, theirs)
    if by_name is not None:
        return ClassMatch(by_name, _notes(by_name, len(ours)))
    indices, wanted = imagenet_indices(ours), imagenet_indices(theirs)
    if len(ours) == IMAGENET and indices is not None and wanted is not None:
        columns = _lookup(indices, wanted)
        if columns is not None:
            note = "note: ImageNet synsets were matched with ImageNet class indices"
            return ClassMatch(columns, [note, *_notes(columns, len(ours))])
    if len(ours) != len(theirs):
        strange = next(name for name in theirs if name not in ours)
        raise InputError(
            f"the model has {len(ours)} classes and the data has {len(theirs)}; {strange!r} is not"
            " a class of the model"
        )
    all_numbers = all(name.isdecimal() for name in (*ours, *theirs))
    if numbered(len(ours)) in (list(ours), list(theirs)) and not all_numbers:
        note = "note: one side has numbers instead of class names, so the names were not compared"
        return ClassMatch(list(range(len(ours))), [note])
    index = [our == their for our, their in zip(ours, theirs, strict=True)].index(False)
    raise InputError(
        f"class {index} is {ours[index]!r} in the model and {theirs[index]!r} in the data; the"
        " class names must be those that the model was trained with"
    )


def _lookup(ours: Sequence[Any], theirs: Sequence[Any]) -> list[int] | None:
    """Return the index in ours of each of theirs; None if one is missing or a duplicate."""
    index = {name: i for i, name in enumerate(ours)}
    whole = len(index) == len(ours) and len(set(theirs)) == len(theirs)
    return [index[name] for name in theirs] if whole and index.keys() >= set(theirs) else None


def _notes(columns: list[int], count: int) -> list[str]:
    if len(columns) < count:
        return [
            f"note: the data has {len(columns)} of the model's {count} classes; predictions are"
            " restricted to these"
        ]
    if columns != sorted(columns):
        return ["note: the data has the classes in another order; they were matched by name"]
    return []
