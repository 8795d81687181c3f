"""Sections that several pages have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kat.analysis.ablation import with_split
from kat.analysis.cost.pareto import CostPoint
from kat.analysis.figures.interactive.costs import costs
from kat.analysis.figures.interactive.learning_curves import curves
from kat.analysis.learning_curves import METRICS, History, usual_columns
from kat.analysis.reports.page import Chart, Report, Table
from kat.text import capitalized
from kat.training.tasks.task import Metric


def add_learning_curves(report: Report, runs: Mapping[str, Sequence[History]]) -> None:
    """Adds the main metric and the losses over the epochs, one color per label.

    Args:
        report: the page.
        runs: the histories by label, of one task, none of them empty; those of one label are drawn
            as their mean and range.
    """
    loss, metric = usual_columns(next(iter(runs.values()))[0][-1])
    several = any(len(own) > 1 for own in runs.values())
    shaded = "; mean and range of the runs" if several else "; circle: the epoch that is kept"
    charts = []
    if metric is not None:
        caption = f"Validation {METRICS[metric].label}{shaded}."
        charts.append(Chart(curves(runs, metric), caption))
    if loss == "val_loss":
        lines = curves(runs, loss, dotted="train_loss")
        charts.append(Chart(lines, f"Validation loss; dotted: training loss{shaded}."))
    else:
        charts.append(Chart(curves(runs, loss), f"Training loss{shaded}."))
    report.charts(charts)
    report.numbers(_epochs(runs))


def _epochs(runs: Mapping[str, Sequence[History]]) -> Table:
    epochs = [(label, row) for label, own in runs.items() for rows in own for row in rows]
    known = {name for _, row in epochs for name in row}
    columns = [name for name in ("train_loss", "val_loss", *METRICS) if name in known]
    rows = [
        [label, f"{row['epoch']:.0f}", *(_number(row.get(name)) for name in columns)]
        for label, row in epochs
    ]
    return Table(("run", "epoch", *columns), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def add_costs(report: Report, points: Sequence[CostPoint], metric: Metric) -> None:
    """Adds a metric against costs."""
    report.chart(
        costs(points, metric),
        f"{capitalized(with_split(metric))} against a cost, chosen below. Seconds and memory are"
        " those of the machine at the time; runs side by side slow each other down.",
    )
