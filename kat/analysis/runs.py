"""The results of runs: of single run directories, and of the tables of ``kat ablate``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.analysis.choices import BY_NAME as METRICS
from kat.analysis.cost.flops import count
from kat.errors import InputError
from kat.files import short_names
from kat.models import load_model
from kat.tables import columns_of, open_table, write_table
from kat.training import read_divergence, read_settings
from kat.training.evaluation.evaluate import TEST_COLUMNS
from kat.training.record.provenance import PROVENANCE
from kat.training.record.run_directory import SETTINGS, SUMMARY, read_summary
from kat.training.sweep.plan import REPORTING
from kat.training.tasks.registry import TASKS

Row = dict[str, Any]
"""One run: ``cell``, ``seed``, ``status``, its :data:`MEASURES`, and more."""
History = Sequence[Mapping[str, float]]
"""One row per epoch, as :func:`kat.training.read_history` reads it."""

HEADLINES = tuple(task.metrics[0].name for task in TASKS.values())
"""The main metric of each task."""
MEASURES = (
    *METRICS,
    *TEST_COLUMNS,
    "parameters",
    "flops",
    "seconds",
    "images_per_second",
    "memory_bytes",
)
"""The measured columns of a run."""
CURVE = "validation_curve"
"""The column of the main validation metric after each epoch, separated by spaces."""
OF_RUN = ("status", *MEASURES, "epochs", "best_epoch", CURVE, *PROVENANCE)
"""The columns of a run that are the same in every table that has it."""
_EPOCHS = ("epochs", "best_epoch", "epochs_to_reference")
_COUNTS = ("parameters", "flops", "memory_bytes", *_EPOCHS)
_IDENTITY = ("cell", "seed", "status")
_RESULTS = (*_IDENTITY, *MEASURES, *_EPOCHS, CURVE, "run", *PROVENANCE)


def common_headline(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the main metric of runs, which must be of one task.

    Args:
        rows: the rows of runs that are done, their labels as ``cell``.

    Raises:
        InputError: they are of several tasks, or have no metric.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        found |= {name: row for name in HEADLINES if row.get(name) is not None}
    if len(found) == 1:
        return next(iter(found))
    have = [f"{row['cell']!r} has {METRICS[name].label}" for name, row in found.items()]
    raise InputError(
        f"runs must be of one task and have its metric: {', '.join(have) or 'none has one'}"
    )


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """Write the rows of runs as CSV, their results first."""
    known = columns_of(rows)
    first = [name for name in _RESULTS if name in known or name in _IDENTITY]
    write_table(path, columns_of(rows, first), rows)


def read_runs(path: Path) -> list[Row]:
    """Read what :func:`write_runs` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    with open_table(path, "a table of runs as kat ablate writes it") as lines:
        return [_read_row(line) for line in lines]


def _read_row(line: dict[str, str]) -> Row:
    numbers = (*MEASURES, *_EPOCHS)
    row: Row = {**line, **dict.fromkeys(numbers), "seed": int(line["seed"])}
    for name in numbers:
        if line.get(name):
            row[name] = int(line[name]) if name in _COUNTS else float(line[name])
    return row


def find_runs(paths: Sequence[Path], *, group: bool, labels: Sequence[str] | None) -> list[Row]:
    """List runs, one row each: ``cell`` (the label), ``seed``, ``status``, ``folder``.

    Rows of a table keep its other columns. The status of a run directory is always ``done``.

    Args:
        paths: run directories, and tables of ``kat ablate``.
        group: runs that differ in nothing but the seed share a label.
        labels: replace the labels found, in their order.

    Raises:
        InputError: a path is neither, or the labels are too few, too many or not distinct.
    """
    given = list(dict.fromkeys(paths))
    first: dict[str, str] = {}
    rows: list[Row] = []
    for path, name in zip(given, short_names(given), strict=True):
        if path.suffix == ".csv":
            prefix = f"{name.removesuffix('.csv')}: " if len(given) > 1 else ""
            rows += [
                {**row, "cell": prefix + row["cell"], "folder": path.parent / row["run"]}
                for row in read_runs(path)
            ]
            continue
        if not (path / SETTINGS).is_file():
            raise InputError(f"{path} is neither a run directory nor a .csv of 'kat ablate'")
        settings = read_settings(path)
        kept = {name: v for name, v in settings.items() if name not in (*REPORTING, "seed")}
        cell = first.setdefault(json.dumps(kept, sort_keys=True) if group else name, name)
        seed = settings.get("seed", 0)
        rows.append({"cell": cell, "seed": seed, "status": "done", "folder": path})
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    if labels is None:
        return rows
    if len(labels) != len(cells) or len(set(labels)) < len(labels):
        raise InputError(
            f"--labels must be {len(cells)} different names, for {', '.join(cells)}; got"
            f" {', '.join(labels)}"
        )
    names = dict(zip(cells, labels, strict=True))
    return [{**row, "cell": names[row["cell"]]} for row in rows]


def with_results(row: Row) -> Row:
    """Add the results of a run to a row of :func:`find_runs`; a row of a table has them already.

    Raises:
        InputError: the run has no result yet.
    """
    if "parameters" in row:
        return row
    folder: Path = row["folder"]
    return {**read_summary(folder), **row, **measure(folder)}


def measure(folder: Path) -> Row:
    """Return the status of a run and, if it is done, its :data:`MEASURES`, FLOPs counted anew."""
    if not (folder / SUMMARY).is_file():
        return {"status": "failed" if read_divergence(folder) is None else "diverged"}
    summary = read_summary(folder)
    model, record = load_model(folder)
    flops = count(model, record.input_size).flops
    kept = {name: summary[name] for name in OF_RUN if name in summary}
    return {"status": "done", **kept, "flops": flops}
