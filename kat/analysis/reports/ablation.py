"""The page of one or several grids of runs, as ``kat ablate`` leaves them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kat.analysis.ablation import (
    CellResult,
    Row,
    compared,
    has_intervals,
    main_metric,
    summarize,
    table,
    timing_note,
    with_split,
)
from kat.analysis.cost.pareto import cost_points
from kat.analysis.figures.interactive.ablation import differences, means
from kat.analysis.learning_curves import History
from kat.analysis.main_effects import effects_table, main_effects
from kat.analysis.reports.page import Chart, Report, Table
from kat.analysis.reports.sections import add_costs, add_learning_curves
from kat.text import capitalized
from kat.training.tasks.task import Metric

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
    titles = {name: _title(name, rows) for name, rows in grids.items()}
    report = Report(" ".join(titles.values()))
    for name, rows in grids.items():
        _add_grid(report, titles[name] if len(grids) > 1 else "", rows, histories[name])
    report.write(path)


def _add_grid(report: Report, name: str, rows: Sequence[Row], histories: RunHistories) -> None:
    metric = compared(main_metric(rows), rows)
    results = summarize(rows, measure=metric.name)
    reference, several = results[0].name, has_intervals(results)
    report.heading(_titled(name, "Cells"))
    report.text(_explained(reference, several))
    report.table(*table(results, reference, metric), bad=[bool(cell.failed) for cell in results])
    if note := timing_note(results, metric):
        report.text(note)
    runs = Table(("cell", "seed", f"{metric.label} (%)"), _values(results))
    shown = "mean, 95 % interval, and every run (gray)" if several else "one seed"
    measured = capitalized(with_split(metric))
    interval = " over the seeds that both have, 95 % interval" if several else ""
    report.charts(
        [
            Chart(means(results, metric), f"{measured} by cell: {shown}.", runs),
            Chart(differences(results, metric), f"Difference from {reference}{interval}."),
        ]
    )
    _add_main_effects(report, name, rows, metric)
    if points := cost_points(results):
        report.heading(_titled(name, "Accuracy against cost"))
        add_costs(report, points, metric)
    report.heading(_titled(name, "Learning curves"))
    _add_curves(report, rows, histories)


def _title(name: str, rows: Sequence[Row]) -> str:
    """The grid's own title; the name of the table if that has none."""
    title = rows[0].get("title") if rows else None
    return str(title or name)


def _explained(reference: str, several: bool) -> str:
    if not several:
        return (
            f"Differences are from {reference}. Each cell has one seed: there are no intervals, and"
            " a difference may be chance."
        )
    return (
        "Mean over the seeds with its 95 % interval (t distribution). Differences are from"
        f" {reference}, seed by seed; an interval that contains 0 does not decide which is better."
    )


def _add_main_effects(report: Report, name: str, rows: Sequence[Row], metric: Metric) -> None:
    """Adds what each factor of a factorial grid contributes on average over the others."""
    effects = main_effects(rows, metric.name)
    if not effects:
        return
    report.heading(_titled(name, "Main effects"))
    report.text(
        "The mean of each level over all levels of the other factors, and its difference from the"
        " first level of its factor, seed by seed."
    )
    report.table(*effects_table(effects, metric.label))
    levels = [
        replace(level, name=f"{factor}: {level.name}")
        for factor, own in effects.items()
        for level in own[1:]
    ]
    report.charts([Chart(differences(levels, metric), "Main effects, from the first levels.")])


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
