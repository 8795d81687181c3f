"""Runs that tables of earlier sweeps have, and that another sweep takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kat.analysis.ablation import CURVE, Row, read_rows
from kat.analysis.learning_curves import METRICS
from kat.errors import InputError
from kat.training.evaluation.tested_run import TEST_COLUMNS
from kat.training.sweep.plan import PlannedRun


def earlier_runs(tables: Sequence[Path]) -> dict[str, Row]:
    """The finished runs in tables of ``kat ablate``, by the name of the run directory.

    Of a run that several tables have, a result counts before a divergence, a row with results on
    test images before one without, and a row with a curve before one without.

    Raises:
        InputError: a file is not such a table, or two tables have different results of one run.
    """
    found: dict[str, Row] = {}
    for table in tables:
        for row in read_rows(table):
            if row["status"] in ("done", "diverged"):
                name = Path(row["run"]).name
                known = found.setdefault(name, row)
                _check_same(known, row, table)
                found[name] = max(known, row, key=_completeness)
    return found


def with_earlier(runs: Sequence[PlannedRun], rows: Mapping[str, Row]) -> list[PlannedRun]:
    """The runs, each with its earlier row if that leaves nothing to do and it is not finished here.

    Args:
        runs: runs of a sweep.
        rows: the result of :func:`earlier_runs`.
    """
    return [replace(run, earlier=_earlier(run, rows)) for run in runs]


def _earlier(run: PlannedRun, rows: Mapping[str, Row]) -> Row | None:
    row = rows.get(run.folder.name)
    if row is None or run.job.done:
        return None
    if row["status"] == "diverged":
        return None if run.job.trained else row
    return row if _is_tested(row) or not run.job.test else None


def _check_same(known: Row, row: Row, table: Path) -> None:
    for name in METRICS:
        if known["status"] == row["status"] == "done" and known[name] != row[name]:
            raise InputError(
                f"{table} has {METRICS[name].label} {row[name]} for {row['run']}, and a table"
                f" before it {known[name]}; leave one of the tables out"
            )


def _completeness(row: Row) -> tuple[bool, bool, bool]:
    return row["status"] == "done", _is_tested(row), bool(row.get(CURVE))


def _is_tested(row: Row) -> bool:
    return row[TEST_COLUMNS[0]] is not None
