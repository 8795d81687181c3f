"""Histories of runs against epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from kat.analysis.figures.interactive.base import figure, line_color, literal, numbers
from kat.analysis.learning_curves import COLUMNS, Curve, History, curve

_MARKED = 12
"""Lines of at most so many points have markers."""


def curves(
    runs: Mapping[str, Sequence[History]], column: str, dotted: str | None = None
) -> go.Figure:
    """Draws histories against epochs, one color per label: the mean and the range of its runs.

    A circle marks the epoch that a run keeps.

    Args:
        runs: the histories by label.
        column: a key of :data:`kat.analysis.learning_curves.COLUMNS`.
        dotted: another column, drawn dotted.

    Raises:
        InputError: there is no epoch at which all runs of a label have the column.
    """
    drawn = figure(340, xaxis={"title": {"text": "epoch"}}, showlegend=len(runs) > 1)
    drawn.update_yaxes(title={"text": COLUMNS[column]})
    for place, (label, histories) in enumerate(runs.items()):
        if dotted is not None:
            line = curve(label, histories, dotted)
            _add_curve(drawn, line, f"{label}, {COLUMNS[dotted]}", line_color(place), dash="dot")
        line = curve(label, histories, column)
        if len(histories) > 1:
            _add_range(drawn, line, line_color(place))
        _add_curve(drawn, line, label, line_color(place))
    last = max(max(trace.x) for trace in drawn.data)
    return drawn.update_xaxes(dtick=1 if last <= _MARKED else None)


def _add_curve(drawn: go.Figure, line: Curve, name: str, color: str, dash: str = "solid") -> None:
    shown = literal(name)
    drawn.add_scatter(
        x=line.epochs,
        y=numbers(line.mean),
        mode="lines+markers" if len(line.epochs) <= _MARKED else "lines",
        name=shown,
        showlegend=dash == "solid",
        line={"color": color, "width": 2, "dash": dash},
        hovertemplate=f"epoch %{{x}}: %{{y:.4g}}<extra>{shown}</extra>",
    )
    if line.best is not None and dash == "solid":
        drawn.add_scatter(
            x=[line.best[0]],
            y=numbers([line.best[1]]),
            mode="markers",
            marker={"color": color, "size": 13, "symbol": "circle-open", "line": {"width": 2}},
            showlegend=False,
            hovertemplate=f"kept: epoch %{{x}}: %{{y:.4g}}<extra>{shown}</extra>",
        )


def _add_range(drawn: go.Figure, line: Curve, color: str) -> None:
    drawn.add_scatter(
        x=line.epochs + line.epochs[::-1],
        y=numbers(line.high + line.low[::-1]),
        mode="lines",
        fill="toself",
        fillcolor=f"{color}26",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )
