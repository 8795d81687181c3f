"""The cells of a grid: their means and their differences from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from kat.analysis.ablation import Comparison, Estimate
from kat.analysis.figures.interactive.base import GREY, SERIES, figure, literal, numbers
from kat.training.tasks.task import Metric

_ROW_HEIGHT = 24
"""In pixels."""


def means(results: Sequence[Comparison], metric: Metric) -> go.Figure:
    """Draws a metric by cell: the mean with its 95 % interval, and every run."""
    drawn = _by_cell(results, f"{metric.label} (%)")
    runs = [(cell.name, seed, value) for cell in results for seed, value in cell.values.items()]
    drawn.add_scatter(
        x=numbers(value for _, _, value in runs),
        y=[literal(name) for name, _, _ in runs],
        text=[f"seed {seed}" for _, seed, _ in runs],
        mode="markers",
        marker={"color": GREY, "size": 7, "symbol": "line-ns-open"},
        hovertemplate="%{y}, %{text}: %{x:.2f} %<extra></extra>",
    )
    estimates = {cell.name: cell.estimate for cell in results if cell.estimate}
    _add_estimates(drawn, estimates)
    return drawn


def differences(results: Sequence[Comparison], metric: Metric) -> go.Figure:
    """Draws the paired difference of each cell from the reference, with its 95 % interval."""
    drawn = _by_cell(results, f"points of {metric.label}")
    drawn.add_vline(0, line={"color": GREY, "width": 1})
    estimates = {cell.name: cell.difference for cell in results if cell.difference}
    _add_estimates(drawn, estimates, sign=True)
    return drawn


def _by_cell(results: Sequence[Comparison], title: str) -> go.Figure:
    """A figure with a row for each cell, the first on top."""
    names = [literal(cell.name) for cell in results]
    order = {"type": "category", "categoryorder": "array", "categoryarray": names}
    rows = {**order, "range": [len(names) - 0.5, -0.5], "dtick": 1}
    title_x = {"title": {"text": title}}
    return figure(84 + _ROW_HEIGHT * len(names), xaxis=title_x, yaxis=rows, showlegend=False)


def _add_estimates(drawn: go.Figure, estimates: Mapping[str, Estimate], sign: bool = False) -> None:
    half_widths = numbers(estimate.half_width for estimate in estimates.values())
    drawn.add_scatter(
        x=numbers(estimate.mean for estimate in estimates.values()),
        y=list(map(literal, estimates)),
        error_x={"type": "data", "array": half_widths, "thickness": 1.5, "width": 5},
        text=[f"{e.text(sign=sign)} % (n = {e.n})" for e in estimates.values()],
        mode="markers",
        marker={"color": SERIES[0], "size": 9},
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
