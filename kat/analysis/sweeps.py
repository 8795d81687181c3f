"""The tables of a sweep: its own runs, and those that tables of earlier sweeps have.

The speed of learning is the first epoch at which a run is as good as the reference in the end: for
the validation metric m(e) of a run after epoch e, and the best values b_1 .. b_n of the n runs of
the reference cell that are done, epochs_to_reference = min {e : m(e) >= mean(b)}.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kat.analysis.runs import CURVE, METRICS, OF_RUN, History, Row, measure, read_runs
from kat.errors import InputError, first_line
from kat.training.evaluation.evaluate import TEST_COLUMNS, read_test
from kat.training.record.run_directory import read_history, settings_to_keep
from kat.training.sweep.plan import PlannedRun, settings_of


class SweepResults:
    """The rows of a sweep's table; the results of each run are read once.

    Args:
        out: the folder of the sweep.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.errors: dict[Path, str] = {}
        """The errors of the runs of this call that failed, by run directory."""
        self._measured: dict[tuple[Path, bool], Row] = {}

    def rows(self, runs: Sequence[PlannedRun]) -> list[Row]:
        """Return one row for each run, by cell in the grid's order; ``to do`` is a status, too.

        Args:
            runs: the runs of one grid.
        """
        cells = [run.cell.name for run in runs]
        ordered = sorted(runs, key=lambda run: cells.index(run.cell.name))
        rows = [self._row(run) for run in ordered]
        reached = runs[0].reached if runs else None
        return rows if reached is None else with_epochs_to(rows, reached, runs[0].metric.name)

    def _row(self, run: PlannedRun) -> Row:
        known = run.folder, run.job.test
        ended = run.finished or run.folder in self.errors
        if ended and known not in self._measured:
            self._measured[known] = self._measure(run)
        return {
            "cell": run.cell.name,
            "seed": run.seed,
            **self._measured.get(known, {"status": "to do"}),
            "run": run.folder.relative_to(self.out).as_posix(),
            **({"tuned": run.cell.tuned} if run.cell.tuned else {}),
            "title": run.title,
            **run.cell.levels,
            "settings": json.dumps(settings_of(settings_to_keep(run.job.config)), sort_keys=True),
        }

    def _measure(self, run: PlannedRun) -> Row:
        if run.earlier is not None:
            names = set(OF_RUN) - (set() if run.job.test else set(TEST_COLUMNS))
            return {name: v for name, v in run.earlier.items() if name in names and v is not None}
        try:
            found = measure(run.folder) | (read_test(run.folder) if run.job.test else {})
            return {**found, CURVE: curve_of(read_history(run.folder), run.metric.name)}
        except (InputError, KeyError, OSError, ValueError) as error:
            self.errors[run.folder] = f"its results cannot be read: {first_line(error)}"
            return {"status": "failed"}


def curve_of(history: History, metric: str) -> str:
    """Return the validation metric after each epoch, ``71.2 78.9 nan 83.4``; nan: not validated."""
    return " ".join(str(row.get(metric, math.nan)) for row in history)


def with_epochs_to(rows: Sequence[Row], cell: str, metric: str) -> list[Row]:
    """Add ``epochs_to_reference`` to the runs that are done; None if a run is never as good.

    Args:
        rows: the runs of a grid. If one that is done has no ``validation_curve``, nothing is added.
        cell: the reference cell; without a run that is done, nothing is added.
        metric: the column of the validation metric.
    """
    done = [row for row in rows if row["status"] == "done"]
    reference = [row for row in done if row["cell"] == cell]
    best = [row[metric] for row in reference if row.get(metric) is not None]
    if not best or not all(row.get(CURVE) for row in done):
        return list(rows)
    target = statistics.fmean(best)
    found = [dict(row) for row in rows]
    for row in found:
        if row["status"] == "done":
            values = enumerate(map(float, row[CURVE].split()), 1)
            reached = (epoch for epoch, value in values if value >= target)
            row["epochs_to_reference"] = next(reached, None)
    return found


def earlier_runs(tables: Sequence[Path]) -> dict[str, Row]:
    """Return the finished runs in tables of ``kat ablate``, by the name of the run directory.

    Of a run that several tables have, a result counts before a divergence, a row with results on
    test images before one without, and a row with a curve before one without.

    Raises:
        InputError: a file is not such a table, or two tables have different results of one run.
    """
    found: dict[str, Row] = {}
    for table in tables:
        rows = [row for row in read_runs(table) if row["status"] in ("done", "diverged")]
        for row in rows:
            run = Path(row["run"]).name
            known = found.get(run, row)
            both_done = known["status"] == row["status"] == "done"
            for name in METRICS if both_done else ():
                if known[name] != row[name]:
                    raise InputError(
                        f"{table} has {METRICS[name].label} {row[name]} for {row['run']}, and"
                        f" a table before it {known[name]}; leave one of the tables out"
                    )
            found[run] = max(known, row, key=_completeness)
    return found


def _completeness(row: Row) -> tuple[bool, bool, bool]:
    return row["status"] == "done", _is_tested(row), bool(row.get(CURVE))


def with_earlier(runs: Sequence[PlannedRun], rows: Mapping[str, Row]) -> list[PlannedRun]:
    """Return the runs, each with its earlier row if the row makes it needless to train the run.

    Args:
        runs: runs of a sweep.
        rows: the result of :func:`earlier_runs`.
    """
    return [replace(run, earlier=_earlier(run, rows.get(run.folder.name))) for run in runs]


def _earlier(run: PlannedRun, row: Row | None) -> Row | None:
    if row is None or run.job.done:
        return None
    if row["status"] == "diverged":
        return None if run.job.trained else row
    return row if _is_tested(row) or not run.job.test else None


def _is_tested(row: Row) -> bool:
    return row[TEST_COLUMNS[0]] is not None
