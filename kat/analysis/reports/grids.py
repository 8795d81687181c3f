"""The pages of grids of runs, as ``kat ablate`` leaves them, and of several runs side by side."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.analysis.ablation import (
    CellResult,
    compared,
    has_intervals,
    main_metric,
    summarize,
    table,
    with_split,
)
from kat.analysis.figures.grids import draw_cells, draw_costs
from kat.analysis.figures.learning_curves import draw_learning_curves, usual_curves
from kat.analysis.reports.page import Report
from kat.analysis.runs import METRICS, History, Row, common_headline
from kat.settings import flat
from kat.tables import columns_of
from kat.text import duration, scaled
from kat.training.tasks.declared import Metric

RunHistories = Mapping[str, History]
"""Histories by the ``run`` of a row; empty or missing where there is none."""
_COSTS = ("parameters", "FLOPs per image", "best epoch", "training time", "images/s", "peak memory")


def write_ablation_report(
    grids: Mapping[str, Sequence[Row]], histories: Mapping[str, RunHistories], path: Path
) -> None:
    """Write the page: for each grid its cells, their costs, their learning curves.

    Args:
        grids: the rows of each grid by its name; the cell of the first row is the reference.
        histories: by the grid's name; runs without one are left out of the learning curves.
        path: the path of the file.
    """
    titles = {name: str(rows[0].get("title") or name) for name, rows in grids.items()}
    report = Report(" ".join(titles.values()))
    for name, rows in grids.items():
        _add_grid(report, titles[name], len(grids) > 1, rows, histories[name])
    report.write(path)


def _add_grid(
    report: Report, title: str, several: bool, rows: Sequence[Row], histories: RunHistories
) -> None:
    metric = compared(main_metric(rows), rows)
    results = summarize(rows, measure=metric.name)
    reference, undone = results[0].name, [row for row in rows if row["status"] != "done"]
    behind = f": {title}" if several else ""
    report.heading(f"Cells{behind}")
    report.text(
        "Mean over the seeds with its 95 % interval (t distribution). Differences are from"
        f" {reference}, seed by seed; an interval that contains 0 does not decide which is better."
        if has_intervals(results)
        else f"Differences are from {reference}. Each cell has one seed: there are no intervals,"
        " and a difference may be chance."
    )
    if undone:
        missing = [f"{row['cell']}, seed {row['seed']} ({row['status']})" for row in undone]
        report.text(f"{len(undone)} of {len(rows)} runs have no result: {'; '.join(missing)}.")
    columns, lines = table(results, reference, metric)
    report.table(columns, lines, bad=[bool(cell.failed) for cell in results])
    report.figure(
        draw_cells(results, metric, title),
        f"The {with_split(metric)} by cell, and the difference from {reference}.",
    )
    measured = [row for row in rows if row.get(metric.name) is not None]
    seeds = [(row["cell"], row["seed"], row[metric.name]) for row in measured]
    report.numbers(("cell", "seed", f"{metric.label} (%)"), seeds)
    if any(cell.estimate for cell in results):
        report.heading(f"Accuracy against cost{behind}")
        add_costs(report, results, metric)
    report.heading(f"Learning curves{behind}")
    done = [row for row in rows if row["status"] == "done"]  # others would end their cell's mean
    cells: dict[str, list[History]] = {}
    for row in done:
        if histories.get(row["run"]):
            cells.setdefault(row["cell"], []).append(histories[row["run"]])
    found = sum(map(len, cells.values()))
    if found < len(done):
        report.text(
            f"{len(done) - found} of {len(done)} runs are left out: their folders have no history,"
            " or are not beside the table; copy runs/ along with it."
        )
    if cells:
        add_learning_curves(report, cells)


def write_comparison_report(
    rows: Sequence[Row],
    histories: Mapping[str, History],
    settings: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Write the page: results and costs, settings that differ, learning curves.

    Args:
        rows: one for each run, all done and of one task, with a distinct label as ``cell``.
        histories: by label; empty for a run without an epoch.
        settings: by label, nested, those that differ from the default.
        path: the path of the file.

    Raises:
        InputError: the runs are of different tasks.
    """
    headline = common_headline(rows)
    metrics = list(METRICS)
    for row in rows:
        metrics = [name for name in metrics if row.get(name) is not None]
    report = Report("Comparison of runs")
    report.heading("Runs")
    columns = ("run", *(f"{METRICS[name].label} (%)" for name in metrics), *_COSTS)
    report.table(columns, [_cells(row, metrics) for row in rows])
    by_run = {label: flat(own) for label, own in settings.items()}
    differing = []
    for name in columns_of(by_run.values()):
        values = [str(own.get(name, "-")) for own in by_run.values()]
        if len(set(values)) > 1:
            differing.append([name, *values])
    if differing:
        report.heading("Settings")
        report.text("The settings that differ; - is the default.")
        report.table(("setting", *by_run), differing)
    learned = {label: [rows] for label, rows in histories.items() if rows}
    if learned:
        report.heading("Learning curves")
        add_learning_curves(report, learned)
    report.heading("Accuracy against cost")
    add_costs(report, summarize(rows, measure=headline), METRICS[headline])
    report.write(path)


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    costs = [
        f"{row['parameters']:,}",
        scaled(row["flops"]),
        f"{row['best_epoch']} of {row['epochs']}",
        duration(row["seconds"]),
        f"{row['images_per_second']:.0f}",
        scaled(row["memory_bytes"], "B"),
    ]
    return [row["cell"], *[f"{row[name]:{METRICS[name].format}}" for name in metrics], *costs]


def add_costs(report: Report, results: Sequence[CellResult], metric: Metric) -> None:
    """Add a metric against costs."""
    report.figure(
        draw_costs(results, metric),
        f"The {with_split(metric)} against costs. Seconds and memory depend on the machine.",
    )


def add_learning_curves(report: Report, runs: Mapping[str, Sequence[History]]) -> None:
    """Add the losses and the main metric over the epochs, one color per label.

    Args:
        report: the page.
        runs: the histories by label, of one task, none of them empty; several of one label are
            drawn as their mean and range.
    """
    several = any(len(own) > 1 for own in runs.values())
    shaded = "mean and range of the runs" if several else "a circle marks the epoch that is kept"
    last = next(iter(runs.values()))[0][-1]
    drawn = draw_learning_curves(runs, usual_curves(last))
    report.figure(drawn, f"Learning curves; {shaded}.")
    columns = [name for name in ("train_loss", "val_loss", *METRICS) if name in last]
    lines = []
    for label, histories in runs.items():
        for row in itertools.chain.from_iterable(histories):
            lines.append([label, row["epoch"], *[row.get(name, "-") for name in columns]])
    report.numbers(("run", "epoch", *columns), lines)
