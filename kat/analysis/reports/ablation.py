"""The page of one or several grids of runs, as ``kat ablate`` leaves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kat.analysis.ablation import CellResult, Row, summarize, table
from kat.analysis.cost.pareto import cost_points
from kat.analysis.figures.interactive.ablation import differences, means
from kat.analysis.learning_curves import History
from kat.analysis.reports.page import Chart, Report, Table
from kat.analysis.reports.sections import add_costs, add_learning_curves

RunHistories = Mapping[str, History]
"""Histories by the ``run`` of a row; empty or missing where there is none."""


def write_ablation_report(
    grids: Mapping[str, Sequence[Row]], histories: Mapping[str, RunHistories], path: Path
) -> None:
    """Writes the page: for each grid its cells, their costs, their learning curves.

    Args:
        grids: the rows of each grid by its name; the cell of the first row is the reference.
        histories: by the grid's name; runs without one are left out of the learning curves.
        path: the path of the file.

    Raises:
        InputError: a grid has no rows.
    """
    report = Report(f"Comparison: {', '.join(grids)}")
    for name, rows in grids.items():
        _add_grid(report, name if len(grids) > 1 else "", rows, histories[name])
    report.write(path)


def _add_grid(report: Report, name: str, rows: Sequence[Row], histories: RunHistories) -> None:
    results = summarize(rows)
    reference = results[0].name
    report.heading(_titled(name, "Cells"))
    report.text(
        "Mean over the seeds with its 95 % interval (t distribution). Differences are from"
        f" {reference}, seed by seed; an interval that contains 0 does not decide which is better."
    )
    report.table(*table(results, reference), bad=[bool(cell.failed) for cell in results])
    runs = Table(("cell", "seed", "top-1 (%)"), _values(results))
    report.charts(
        [
            Chart(
                means(results), "Top-1 by cell: mean, 95 % interval, and every run (gray).", runs
            ),
            Chart(
                differences(results),
                f"Difference from {reference} over the seeds that both have, 95 % interval.",
            ),
        ]
    )
    if points := cost_points(results):
        report.heading(_titled(name, "Accuracy against cost"))
        add_costs(report, points)
    report.heading(_titled(name, "Learning curves"))
    _add_curves(report, rows, histories)


def _titled(name: str, section: str) -> str:
    return f"{section}: {name}" if name else section


def _values(results: Sequence[CellResult]) -> list[tuple[str, int, str]]:
    return [
        (cell.name, seed, f"{value:.2f}")
        for cell in results
        for seed, value in cell.values.items()
        if math.isfinite(value)
    ]


def _add_curves(report: Report, rows: Sequence[Row], histories: RunHistories) -> None:
    """Adds the curves of runs that are done: one that stopped early would end its cell's mean."""
    done = [row for row in rows if row["status"] == "done"]
    found = [row for row in done if histories.get(row["run"])]
    if len(found) < len(done):
        report.text(
            f"{len(done) - len(found)} of {len(done)} runs are left out: their folders have no"
            " history, or are not beside the table; copy runs/ along with it."
        )
    cells: dict[str, list[History]] = {}
    for row in found:
        cells.setdefault(row["cell"], []).append(histories[row["run"]])
    if cells:
        add_learning_curves(report, cells)
