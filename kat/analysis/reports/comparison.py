"""The page of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.analysis.ablation import Row, summarize
from kat.analysis.cost.pareto import cost_points
from kat.analysis.learning_curves import METRICS, History, common_headline
from kat.analysis.reports.page import Report
from kat.analysis.reports.sections import add_costs, add_learning_curves
from kat.settings import flat
from kat.text import duration, scaled

_COSTS = ("parameters", "FLOPs per image", "best epoch", "training time", "images/s", "peak memory")


def write_comparison_report(
    rows: Sequence[Row],
    histories: Mapping[str, History],
    settings: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> None:
    """Writes the page: results and costs, settings that differ, learning curves.

    Args:
        rows: one for each run, all done and of one task, with a distinct label as ``cell``.
        histories: by label; empty for a run without an epoch.
        settings: by label, nested, those that differ from the default.
        path: the path of the file.

    Raises:
        InputError: the runs are of different tasks.
    """
    headline = common_headline(rows)
    metrics = [name for name in METRICS if all(row.get(name) is not None for row in rows)]
    report = Report("Comparison of runs")
    report.heading("Runs")
    columns = ("run", *(f"{METRICS[name].label} (%)" for name in metrics), *_COSTS)
    report.table(columns, [_cells(row, metrics) for row in rows])
    report.heading("Settings")
    _add_settings(report, settings)
    report.heading("Learning curves")
    learned = {label: [rows] for label, rows in histories.items() if rows}
    if learned:
        add_learning_curves(report, learned)
    else:
        report.text("No run has completed an epoch.")
    report.heading("Accuracy against cost")
    add_costs(report, cost_points(summarize(rows, measure=headline)), METRICS[headline])
    report.write(path)


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    return [
        row["cell"],
        *(f"{row[name]:{METRICS[name].format}}" for name in metrics),
        f"{row['parameters']:,}",
        scaled(row["flops"]),
        f"{row['best_epoch']} of {row['epochs']}",
        duration(row["seconds"]),
        f"{row['images_per_second']:.0f}",
        scaled(row["memory_bytes"], "B"),
    ]


def _add_settings(report: Report, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds a table of the settings in which the runs differ."""
    by_run = {label: flat(own) for label, own in settings.items()}
    names = dict.fromkeys(name for own in by_run.values() for name in own)
    found = {name: [str(own.get(name, "-")) for own in by_run.values()] for name in names}
    differing = [[name, *values] for name, values in found.items() if len(set(values)) > 1]
    if not differing:
        report.text("All runs have the same settings.")
        return
    report.text("The settings that differ; - is the default.")
    report.table(("setting", *by_run), differing)
