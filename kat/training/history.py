"""The course of a run, one row an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kat.tables import columns_of, open_table, write_table

HISTORY = "history.csv"


def logged_columns(scores: Iterable[str]) -> dict[str, str]:
    """The columns by what is logged: train/loss, val/loss, val/SCORE, and val/raw_... of each.

    The raw ones are of the weights themselves, where their average is what is validated and kept.
    """
    validated = {"loss": "val_loss", **{name: name for name in scores}}
    return {
        "train/loss": "train_loss",
        **{f"val/{name}": column for name, column in validated.items()},
        **{f"val/raw_{name}": f"raw_{column}" for name, column in validated.items()},
    }


def read_history(out: Path) -> list[dict[str, float]]:
    """One row an epoch: ``epoch``, and those of :func:`logged_columns` that the run has.

    Args:
        out: the folder of a run; one that has no epoch behind it has no rows.
    """
    path = out / HISTORY
    if not path.is_file():
        return []
    with open_table(path, "the history of a run") as lines:
        rows = [{k: float(v) for k, v in line.items() if v} for line in lines]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def write_history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Writes the rows as CSV."""
    write_table(path, columns_of(rows, ["epoch"]), rows)
