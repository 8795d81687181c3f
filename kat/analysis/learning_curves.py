"""The metrics of runs, and their mean and range over several runs, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kat.errors import InputError
from kat.training.tasks.registry import TASKS

History = Sequence[Mapping[str, float]]
"""One row per epoch, as :func:`kat.training.read_history` reads it."""

METRICS = {metric.name: metric for task in TASKS.values() for metric in task.metrics}
"""What validation measures, in per cent, by its column."""
HEADLINES = tuple(task.metrics[0].name for task in TASKS.values())
"""The main metric of each task."""

_VALIDATED = {
    "val_loss": "validation loss",
    **{name: f"validation {metric.label} (%)" for name, metric in METRICS.items()},
}
COLUMNS = {
    "train_loss": "training loss",
    **_VALIDATED,
    **{f"raw_{name}": f"{title}, without EMA" for name, title in _VALIDATED.items()},
}
"""The columns that can be drawn, with their titles."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the epochs that all runs have, so that every mean is over the same runs.

    Args:
        epochs: counted from 1.
        mean: over the runs.
        low, high: the smallest and the largest of the runs.
        best: the epoch that is kept and its value, of a single run that tells it.
    """

    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    best: tuple[int, float] | None = None


def usual_columns(row: Mapping[str, Any]) -> tuple[str, str | None]:
    """The two columns that summarize a run: its loss and its main metric.

    Args:
        row: the row of a history.

    Returns:
        The validation loss, or the training loss without one; the main metric of the task, or None
        without validation.
    """
    loss = "val_loss" if "val_loss" in row else "train_loss"
    return loss, next((name for name in HEADLINES if name in row), None)


def common_headline(rows: Iterable[Mapping[str, Any]]) -> str:
    """The main metric of runs, which must be of one task.

    Args:
        rows: the rows of runs that are done, their labels as ``cell``.

    Raises:
        InputError: they are of several tasks, or have no metric.
    """
    found = {name: row for row in rows for name in HEADLINES if row.get(name) is not None}
    if len(found) == 1:
        return next(iter(found))
    have = [f"{row['cell']!r} has {METRICS[name].label}" for name, row in found.items()]
    raise InputError(
        f"runs must be of one task and have its metric: {', '.join(have) or 'none has one'}"
    )


def curve(label: str, histories: Sequence[History], column: str) -> Curve:
    """The mean and the range of one column over several runs.

    Args:
        label: names the runs in errors.
        histories: the histories of one or more runs.
        column: one of :data:`COLUMNS`.

    Raises:
        InputError: there is no epoch at which all runs have the column.
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
    kept = [int(row["epoch"]) for row in histories[0] if row.get("best")]
    single = len(histories) == 1 and kept and kept[0] in runs[0]
    return Curve(
        epochs=epochs,
        mean=[sum(row) / len(row) for row in values],
        low=list(map(min, values)),
        high=list(map(max, values)),
        best=(kept[0], runs[0][kept[0]]) if single else None,
    )
