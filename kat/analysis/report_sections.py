"""What the pages of runs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kat.analysis import charts
from kat.analysis.learning_curves import History
from kat.analysis.report import Chart, Report, Table
from kat.analysis.run_cost import CostPoint

_HISTORY = ("train_loss", "val_loss", "top1", "top5")


def add_learning_curves(report: Report, runs: Mapping[str, Sequence[History]]) -> None:
    """Accuracy and losses over the epochs, one colour a label.

    Args:
        report: the page.
        runs: the histories by label; those of one label are drawn as their mean, in their range.
    """
    several = any(len(own) > 1 for own in runs.values())
    shaded = "; the mean of the runs, in their range" if several else ""
    loss = charts.curves(runs, "val_loss", dotted="train_loss")
    report.charts(
        [
            Chart(charts.curves(runs, "top1"), f"Top-1 on the validation split{shaded}."),
            Chart(loss, f"Loss on the validation split; dotted in training{shaded}."),
        ]
    )
    rows = [
        [label, *_epoch(row)] for label, own in runs.items() for history in own for row in history
    ]
    report.numbers(Table(("run", "epoch", *_HISTORY), rows))


def _epoch(row: Mapping[str, float]) -> list[str]:
    values = [f"{row[name]:.4f}" if name in row else "-" for name in _HISTORY]
    return [f"{row['epoch']:.0f}", *values]


def add_costs(report: Report, points: Sequence[CostPoint]) -> None:
    """Accuracy against what it costs."""
    report.chart(
        charts.costs(points),
        "Top-1 against a cost, chosen below; seconds and memory are those of the machine at"
        " the time, and runs side by side disturb each other's seconds.",
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        found |= inner or {f"{prefix}{name}": value}
    return found


def duration(seconds: float) -> str:
    """E.g. ``"3 min 20 s"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
