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
from kat.analysis.plots import History

SERIES = (
    "#2f7ed8", "#d9692a", "#2a9464", "#c9428e", "#8a63d2",
    "#9a7b00", "#158b9a", "#d64545", "#76808a", "#a0654a",
)  # fmt: skip
"""Colours of lines, in order."""
GREY = "#8a929b"
_LINE = 24
"""Pixels that a row of a figure takes."""
_MARKED = 12
"""Lines of no more points have markers."""


def numbers(values: Any) -> list[Any]:
    """The values to six digits; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure: the legend above it, small margins, as wide as there is room."""
    legend = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    legend |= {"y": 1, "yref": "container", "yanchor": "top"}
    margin = {"l": 8, "r": 12, "t": 12, "b": 8}
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
        marker={"color": GREY, "size": 7, "symbol": "line-ns-open"},
        hovertemplate="%{y}, %{text}: %{x:.2f} %<extra></extra>",
    )
    estimates = {cell.name: cell.estimate for cell in results if cell.estimate}
    _add_estimates(drawn, estimates, "%{x:.2f}")
    return drawn


def differences(results: Sequence[CellResult]) -> go.Figure:
    """The paired difference of each cell from the reference, with its 95 % interval."""
    drawn = _by_cell(results, "points of top-1")
    drawn.add_vline(0, line={"color": GREY, "width": 1})
    estimates = {cell.name: cell.difference for cell in results if cell.difference}
    _add_estimates(drawn, estimates, "%{x:+.2f}")
    return drawn


def _by_cell(results: Sequence[CellResult], title: str) -> go.Figure:
    """A figure with a row a cell, the first on top."""
    names = [cell.name for cell in results]
    rows = {"categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.5, -0.5]}
    title_x = {"title": {"text": title}}
    return figure(84 + _LINE * len(names), xaxis=title_x, yaxis=rows, showlegend=False)


def _add_estimates(drawn: go.Figure, estimates: Mapping[str, Estimate], form: str) -> None:
    half_widths = numbers(estimate.half_width for estimate in estimates.values())
    drawn.add_scatter(
        x=numbers(estimate.mean for estimate in estimates.values()),
        y=list(estimates),
        error_x={"type": "data", "array": half_widths, "thickness": 1.5, "width": 5},
        text=[f"n = {estimate.n}" for estimate in estimates.values()],
        mode="markers",
        marker={"color": SERIES[0], "size": 9},
        hovertemplate=f"%{{y}}: {form} ± %{{error_x.array:.2f}} (%{{text}})<extra></extra>",
    )


def curves(runs: Mapping[str, Sequence[History]], column: str, title: str) -> go.Figure:
    """A column of the runs' histories against epochs, one colour a label, one line a run."""
    last = max(row["epoch"] for histories in runs.values() for rows in histories for row in rows)
    epochs = {"title": {"text": "epoch"}, "dtick": 1 if last <= _MARKED else None}
    drawn = figure(340, xaxis=epochs, yaxis={"title": {"text": title}}, showlegend=len(runs) > 1)
    for place, (label, histories) in enumerate(runs.items()):
        for number, rows in enumerate(histories):
            drawn.add_scatter(
                x=[row["epoch"] for row in rows],
                y=numbers(row.get(column, math.nan) for row in rows),
                mode="lines+markers" if len(rows) <= _MARKED else "lines",
                name=label,
                legendgroup=label,
                showlegend=number == 0,
                line={"color": SERIES[place % len(SERIES)], "width": 1.8},
                hovertemplate=f"epoch %{{x}}: %{{y:.4g}}<extra>{label}</extra>",
            )
    return drawn
