"""What the pages of runs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kat.analysis.cost.runs import CostPoint
from kat.analysis.figures import charts
from kat.analysis.learning_curves import SCORES, History, usual_columns
from kat.analysis.reports.page import Chart, Report, Table


def add_learning_curves(report: Report, runs: Mapping[str, Sequence[History]]) -> None:
    """The task's first score and losses over the epochs, one colour a label.

    Args:
        report: the page.
        runs: the histories by label, of one task, none of them empty; those of one label are drawn
            as their mean, in their range.
    """
    loss, score = usual_columns(next(iter(runs.values()))[0][-1])
    several = any(len(own) > 1 for own in runs.values())
    shaded = "; the mean of the runs, in their range" if several else ""
    drawn = []
    if score is not None:
        caption = f"Validation {SCORES[score]}{shaded}."
        drawn.append(Chart(charts.curves(runs, score), caption))
    if loss == "val_loss":
        lines = charts.curves(runs, loss, dotted="train_loss")
        drawn.append(Chart(lines, f"Loss on the validation split; dotted in training{shaded}."))
    else:
        drawn.append(Chart(charts.curves(runs, loss), f"Loss in training{shaded}."))
    report.charts(drawn)
    report.numbers(_epochs(runs))


def _epochs(runs: Mapping[str, Sequence[History]]) -> Table:
    epochs = [(label, row) for label, own in runs.items() for rows in own for row in rows]
    known = {name for _, row in epochs for name in row}
    columns = [name for name in ("train_loss", "val_loss", *SCORES) if name in known]
    rows = [
        [label, f"{row['epoch']:.0f}", *(_number(row.get(name)) for name in columns)]
        for label, row in epochs
    ]
    return Table(("run", "epoch", *columns), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def add_costs(report: Report, points: Sequence[CostPoint], score: str = "top1") -> None:
    """A score of :data:`kat.analysis.learning_curves.SCORES` against what it costs."""
    report.chart(
        charts.costs(points, score),
        f"Validation {SCORES[score]} against a cost, chosen below; seconds and memory are those of"
        " the machine at the time, and runs side by side disturb each other's seconds.",
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        found |= inner or {f"{prefix}{name}": value}
    return found
