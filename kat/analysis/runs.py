"""The results of runs: of single run directories, and of the tables of ``kat ablate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kat.analysis.ablation import CURVE, MEASURES, OF_RUN, Row, read_runs
from kat.analysis.cost.flops import count
from kat.analysis.epochs_to_reference import curve_of, with_epochs_to
from kat.errors import InputError, first_line
from kat.files import check_exists, short_names
from kat.models import load_model
from kat.training import read_divergence, read_settings
from kat.training.evaluation.tested_run import TEST_COLUMNS, read_test
from kat.training.run_directory import SETTINGS, SUMMARY, read_history, read_summary
from kat.training.sweep.concurrency import RUNS_AT_ONCE, read_concurrency
from kat.training.sweep.plan import PlannedRun
from kat.training.sweep.settings import REPORTING, settings_of


def find_runs(paths: Sequence[Path], *, group: bool, labels: Sequence[str] | None) -> list[Row]:
    """Lists runs, one row each: ``cell`` (the label), ``seed``, ``status``, ``folder``.

    Rows of a table keep its other columns. The status of a run directory is always ``done``.

    Args:
        paths: run directories, and tables of ``kat ablate``.
        group: whether runs that differ in nothing but the seed share a label.
        labels: replace the labels found, in their order.

    Raises:
        InputError: a path is neither, or the labels are too few, too many or not distinct.
    """
    given = list(dict.fromkeys(paths))
    names = dict(zip(given, short_names(given), strict=True))
    first: dict[str, str] = {}
    rows: list[Row] = []
    for path in given:
        if path.suffix == ".csv":
            rows += _rows_of_table(path, names[path] if len(given) > 1 else "")
            continue
        settings = _read_settings(path)
        key = _without_seed(settings) if group else names[path]
        cell = first.setdefault(key, names[path])
        seed = settings.get("seed", 0)
        rows.append({"cell": cell, "seed": seed, "status": "done", "folder": path})
    return rows if labels is None else _relabeled(rows, labels)


def with_results(row: Row) -> Row:
    """Adds the results of a run to a row of :func:`find_runs`; a row of a table has them already.

    Raises:
        InputError: the run has no result yet.
    """
    if "parameters" in row:
        return row
    folder: Path = row["folder"]
    found = measure(folder)
    if found["status"] != "done":
        raise InputError(f"{folder} has no result yet: there is no {SUMMARY} in it")
    return {**read_summary(folder), **row, **found}


def measure(folder: Path) -> Row:
    """The status of a run and, if it is done, its :data:`MEASURES`, FLOPs counted anew."""
    if not (folder / SUMMARY).is_file():
        return {"status": "failed" if read_divergence(folder) is None else "diverged"}
    summary = read_summary(folder)
    model, record = load_model(folder)
    flops = count(model, record.input_size).flops
    kept = {name: summary[name] for name in (*MEASURES, "epochs", "best_epoch") if name in summary}
    return {"status": "done", **kept, "flops": flops}


class SweepResults:
    """The rows of a sweep's table; the results of each run are read once.

    Args:
        out: the folder of the sweep.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.errors: dict[Path, str] = {}
        """Why runs of this call failed, by run directory."""
        self._measured: dict[tuple[Path, bool], Row] = {}

    def rows(self, runs: Sequence[PlannedRun]) -> list[Row]:
        """One row for each run that is finished or has failed, by cell in the order of the grid.

        Args:
            runs: the runs of one grid.
        """
        places = {run.cell.name: place for place, run in reversed(list(enumerate(runs)))}
        ordered = sorted(runs, key=lambda run: places[run.cell.name])
        shown = [run for run in ordered if run.finished or run.folder in self.errors]
        rows = [self._row(run) for run in shown]
        reached = runs[0].reached if runs else None
        if reached is None:
            return rows
        return with_epochs_to(rows, reached, runs[0].metric.name)

    def _row(self, run: PlannedRun) -> Row:
        known = run.folder, run.job.test
        if known not in self._measured:
            self._measured[known] = self._measure(run)
        return {
            "cell": run.cell.name,
            "seed": run.seed,
            **self._measured[known],
            "run": run.folder.relative_to(self.out).as_posix(),
            **({"tuned": run.cell.tuned} if run.cell.tuned else {}),
            "title": run.title,
            **run.cell.levels,
            "settings": json.dumps(settings_of(run.job.config), sort_keys=True),
        }

    def _measure(self, run: PlannedRun) -> Row:
        if run.earlier is not None:
            names = set(OF_RUN) - (set() if run.job.test else set(TEST_COLUMNS))
            return {name: v for name, v in run.earlier.items() if name in names and v is not None}
        try:
            found = measure(run.folder) | (read_test(run.folder) if run.job.test else {})
            found[CURVE] = curve_of(read_history(run.folder), run.metric.name)
            at_once = read_concurrency(run.job.concurrency)
            return found if at_once is None else {**found, RUNS_AT_ONCE: at_once}
        except (InputError, KeyError, OSError, ValueError) as error:
            self.errors[run.folder] = f"its results cannot be read: {first_line(error)}"
            return {"status": "failed"}


def _rows_of_table(path: Path, name: str) -> list[Row]:
    prefix = f"{name.removesuffix('.csv')}: " if name else ""
    return [
        {**row, "cell": prefix + row["cell"], "folder": path.parent / row["run"]}
        for row in read_runs(path)
    ]


def _read_settings(folder: Path) -> dict[str, Any]:
    check_exists(folder)
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} is neither a run directory nor a .csv of 'kat ablate'")
    return read_settings(folder)


def _without_seed(settings: dict[str, Any]) -> str:
    """A key that is equal for runs that differ in nothing but the seed, folder and reporting."""
    kept = {name: v for name, v in settings.items() if name not in (*REPORTING, "seed")}
    return json.dumps(kept, sort_keys=True)


def _relabeled(rows: list[Row], labels: Sequence[str]) -> list[Row]:
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    if len(labels) != len(cells) or len(set(labels)) < len(labels):
        raise InputError(
            f"--labels must be {len(cells)} different names, for {', '.join(cells)}; got"
            f" {', '.join(labels)}"
        )
    names = dict(zip(cells, labels, strict=True))
    return [{**row, "cell": names[row["cell"]]} for row in rows]
