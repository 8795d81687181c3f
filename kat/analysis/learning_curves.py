"""What runs of one setting and several seeds have in common, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kat.errors import InputError

History = Sequence[Mapping[str, float]]
"""One row an epoch, as :func:`kat.training.read_history` reads it."""

SCORES = {
    "top1": "top-1",
    "top5": "top-5",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "box_ap50": "box AP50",
    "mask_ap50": "mask AP50",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
}
"""What is validated, in per cent, and what it is called."""
HEADLINES = ("top1", "box_ap", "miou")
"""The score of each task that says most."""
_VALIDATED = {
    "val_loss": "validation loss",
    **{name: f"validation {label} (%)" for name, label in SCORES.items()},
}
COLUMNS = {
    "train_loss": "training loss",
    **_VALIDATED,
    **{f"raw_{name}": f"{title}, weights not averaged" for name, title in _VALIDATED.items()},
}
"""What can be drawn, and what it is called."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs that all runs have, so that each mean is of the same runs.

    Args:
        epochs: counted from 1.
        mean: over the runs.
        low, high: the least and the largest of the runs.
    """

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def usual_columns(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """What says most of a run: its loss, in training where none is validated, and its score.

    Args:
        row: of a history.

    Returns:
        Two of :data:`COLUMNS`; None where no score is validated.
    """
    loss = "val_loss" if "val_loss" in row else "train_loss"
    return loss, next((name for name in HEADLINES if name in row), None)


def common_headline(rows: Iterable[Mapping[str, Any]]) -> str:
    """The score of :data:`HEADLINES` that runs have, which must be of one task.

    Args:
        rows: of runs that are done, their labels as ``cell``.

    Raises:
        InputError: they are of several tasks.
    """
    found = {name: row for row in rows for name in HEADLINES if row.get(name) is not None}
    if len(found) != 1:
        have = ", ".join(f"{row['cell']!r} has {SCORES[name]}" for name, row in found.items())
        raise InputError(f"runs must be of one task, and have its score: {have or 'none has one'}")
    return next(iter(found))


def curve(label: str, histories: Sequence[History], column: str) -> Curve:
    """The mean and the range of one column of several runs.

    Args:
        label: what the runs are called in an error.
        histories: of one run or more.
        column: one of :data:`COLUMNS`.

    Raises:
        InputError: there is no epoch at which all runs have it.
    """
    runs = [{int(r["epoch"]): r[column] for r in rows if column in r} for rows in histories]
    epochs = sorted(set(runs[0]).intersection(*runs[1:]))
    if not epochs:
        known = dict.fromkeys(name for rows in histories for row in rows for name in row)
        raise InputError(
            f"{label!r} has no epoch at which all its runs have {column}; their histories have"
            f" {', '.join(known) or 'no rows'}"
        )
    values = [[run[epoch] for run in runs] for epoch in epochs]
    return Curve(
        epochs=epochs,
        mean=[sum(row) / len(row) for row in values],
        low=list(map(min, values)),
        high=list(map(max, values)),
    )
