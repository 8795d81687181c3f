"""The interactive figures of the reports, one function each; :class:`kat.analysis.report.Chart`.

Text, axes and background are left to the page, which has them light or dark; :data:`SERIES` can be
told from both, at a contrast of at least 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kat.analysis.ablation import CellResult, Estimate

SERIES = (
    "#2f7ed8", "#d9692a", "#2a9464", "#c9428e", "#8a63d2",
    "#9a7b00", "#158b9a", "#d64545", "#76808a", "#a0654a",
)  # fmt: skip
"""Colours of lines, in order."""
GREY = "#8a929b"
_LINE = 24
"""Pixels that a row of a figure takes."""


def numbers(values: Any) -> list[Any]:
    """The values to six digits; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure: the legend above it, small margins, as wide as there is room."""
    legend = {"orientation": "h", "x": 0, "xref": "container", "y": 1.02, "yanchor": "bottom"}
    margin = {"l": 8, "r": 12, "t": 32, "b": 8}
    return go.Figure(layout={"height": height, "legend": legend, "margin": margin, **layout})


def means(results: Sequence[CellResult]) -> go.Figure:
    """Top-1 by cell: the mean with its 95 % interval, and every run."""
    drawn = _by_cell(results, "top-1 (%)")
    runs = [(cell.name, seed, value) for cell in results for seed, value in cell.values.items()]
    drawn.add_scatter(
        x=numbers(value for _, _, value in runs),
        y=[name for name, _, _ in runs],
        text=[f"seed {seed}" for _, seed, _ in runs],
        mode="markers",
        name="a run",
        marker={"color": GREY, "size": 7, "symbol": "line-ns-open"},
        hovertemplate="%{y}, %{text}: %{x:.2f} %<extra></extra>",
    )
    estimates = {cell.name: cell.estimate for cell in results if cell.estimate}
    _add_estimates(drawn, estimates, "mean, 95 % interval", "%{x:.2f}")
    return drawn


def differences(results: Sequence[CellResult]) -> go.Figure:
    """The paired difference of each cell from the reference, with its 95 % interval."""
    drawn = _by_cell(results, "points of top-1")
    drawn.add_vline(0, line={"color": GREY, "width": 1})
    estimates = {cell.name: cell.difference for cell in results if cell.difference}
    _add_estimates(drawn, estimates, "mean difference, 95 % interval", "%{x:+.2f}")
    return drawn


def _by_cell(results: Sequence[CellResult], title: str) -> go.Figure:
    """A figure with a row a cell, the first on top."""
    names = [cell.name for cell in results]
    rows = {"categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.5, -0.5]}
    return figure(110 + _LINE * len(names), xaxis={"title": {"text": title}}, yaxis=rows)


def _add_estimates(
    drawn: go.Figure, estimates: Mapping[str, Estimate], name: str, form: str
) -> None:
    half_widths = numbers(estimate.half_width for estimate in estimates.values())
    drawn.add_scatter(
        x=numbers(estimate.mean for estimate in estimates.values()),
        y=list(estimates),
        error_x={"type": "data", "array": half_widths, "thickness": 1.5, "width": 5},
        text=[f"n = {estimate.n}" for estimate in estimates.values()],
        mode="markers",
        name=name,
        marker={"color": SERIES[0], "size": 9},
        hovertemplate=f"%{{y}}: {form} ± %{{error_x.array:.2f}} (%{{text}})<extra></extra>",
    )
