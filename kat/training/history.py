"""The course of a run, one row an epoch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kat.files import replacing

HISTORY = "history.csv"
LOGGED = {
    "train/loss": "train_loss",
    "val/loss": "val_loss",
    "val/top1": "top1",
    "val/top5": "top5",
    "val/raw_loss": "raw_val_loss",
    "val/raw_top1": "raw_top1",
    "val/raw_top5": "raw_top5",
}
"""The columns by what is logged. The raw ones are of the weights themselves, where their average is
what is validated and kept."""
COLUMNS = ("epoch", *LOGGED.values())


def read_history(out: Path) -> list[dict[str, float]]:
    """One row an epoch with those of :data:`COLUMNS` that the run has.

    Args:
        out: the folder of a run; one that has no epoch behind it has no rows.
    """
    path = out / HISTORY
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]


def write_history(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Writes the rows as CSV."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
