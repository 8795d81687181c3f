"""The course of a run, one row an epoch, read from the logs of a run and of its resumptions."""

from __future__ import annotations

import csv
from pathlib import Path

from kat.files import replacing

COLUMNS = ("epoch", "train_loss", "val_loss", "top1", "top5")
_LOGGED = {
    "train/loss": "train_loss",
    "val/loss": "val_loss",
    "val/top1": "top1",
    "val/top5": "top5",
}


def read_history(out: Path) -> list[dict[str, float]]:
    """One row an epoch with the columns of :data:`COLUMNS`; where a resumed run did an epoch
    again, its later row counts.

    Args:
        out: the folder of a run.
    """
    rows: dict[int, dict[str, float]] = {}
    logs = sorted((out / "csv").glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name[8:]))
    for path in logs:
        with path.open(newline="") as file:
            for line in csv.DictReader(file):
                values = {_LOGGED[k]: float(v) for k, v in line.items() if k in _LOGGED and v}
                if values:
                    epoch = int(line["epoch"]) + 1
                    rows.setdefault(epoch, {"epoch": epoch}).update(values)
    return [rows[epoch] for epoch in sorted(rows)]


def write_history(rows: list[dict[str, float]], path: Path) -> None:
    """Writes the rows as CSV."""
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
