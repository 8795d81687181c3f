"""Interactive figures of the reports, one function each.

Text, axes and background are left to the page, which has them light or dark; :data:`SERIES` can be
told from both, at a contrast of at least 3.5.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from kat.analysis.ablation import CellResult, Estimate
from kat.analysis.cost.runs import COSTS, CostPoint, pareto_front, spans_decades
from kat.analysis.inspect.activations import Activation, spread
from kat.analysis.learning_curves import COLUMNS, SCORES, Curve, History, curve
from kat.models import LayerHistory

SERIES = (
    "#2f7ed8", "#d26329", "#2a9464", "#c9428e", "#8a63d2",
    "#9a7b00", "#158b9a", "#d64545", "#76808a", "#a0654a",
)  # fmt: skip
"""Colours of lines, in order."""
GREY = "#8a929b"
_LINE = 24
"""Pixels that a row of a figure takes."""
_MARKED = 12
"""Lines of no more points have markers."""
_EVERY = 2
"""Of the points of a function, this one is drawn."""
_DRAWN_GROUPS, _FRAMES = 16, 24
"""Groups of a layer, and steps of its training, that are drawn at most."""
_START = {"color": GREY, "width": 1.4, "dash": "dash"}
_AT_ONCE = {"transition": {"duration": 0}}


def numbers(values: Any) -> list[Any]:
    """The values to six digits; None for what is not finite."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in map(float, values)]


def literal(name: str) -> str:
    """A name as plotly shows it letter by letter: not as tags, entities, or a template's fields."""
    return html.escape(name, quote=False).replace("%", "&#37;")


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure: the legend above it, small margins, as wide as there is room."""
    legend = {"orientation": "h", "x": 0, "xref": "container", "xanchor": "left"}
    legend |= {"y": 1, "yref": "container", "yanchor": "top"}
    margin = {"l": 8, "r": 12, "t": 12, "b": 8}
    whole = {"namelength": -1}  # a name that is cut short could be cut within an entity
    shown = {"height": height, "legend": legend, "margin": margin, "hoverlabel": whole}
    return go.Figure(layout={**shown, **layout})


def means(results: Sequence[CellResult]) -> go.Figure:
    """Top-1 by cell: the mean with its 95 % interval, and every run."""
    drawn = _by_cell(results, "top-1 (%)")
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
    names = [literal(cell.name) for cell in results]
    order = {"type": "category", "categoryorder": "array", "categoryarray": names}
    rows = {**order, "range": [len(names) - 0.5, -0.5], "dtick": 1}
    title_x = {"title": {"text": title}}
    return figure(84 + _LINE * len(names), xaxis=title_x, yaxis=rows, showlegend=False)


def _add_estimates(drawn: go.Figure, estimates: Mapping[str, Estimate], form: str) -> None:
    half_widths = numbers(estimate.half_width for estimate in estimates.values())
    drawn.add_scatter(
        x=numbers(estimate.mean for estimate in estimates.values()),
        y=list(map(literal, estimates)),
        error_x={"type": "data", "array": half_widths, "thickness": 1.5, "width": 5},
        text=[f"n = {estimate.n}" for estimate in estimates.values()],
        mode="markers",
        marker={"color": SERIES[0], "size": 9},
        hovertemplate=f"%{{y}}: {form} ± %{{error_x.array:.2f}} (%{{text}})<extra></extra>",
    )


def curves(
    runs: Mapping[str, Sequence[History]], column: str, dotted: str | None = None
) -> go.Figure:
    """Histories against epochs, one colour a label: the mean, in the range of the runs.

    Args:
        runs: the histories by label.
        column: of :data:`kat.analysis.learning_curves.COLUMNS`.
        dotted: another one, drawn dotted.

    Raises:
        InputError: runs of one label have no epoch in common that has the column.
    """
    drawn = figure(340, xaxis={"title": {"text": "epoch"}}, showlegend=len(runs) > 1)
    drawn.update_yaxes(title={"text": COLUMNS[column]})
    for place, (label, histories) in enumerate(runs.items()):
        color = SERIES[place % len(SERIES)]
        if dotted is not None:
            line = curve(label, histories, dotted)
            _add_curve(drawn, line, f"{label}, {COLUMNS[dotted]}", color, dash="dot")
        line = curve(label, histories, column)
        if len(histories) > 1:
            _add_range(drawn, line, color)
        _add_curve(drawn, line, label, color)
    last = max(trace.x[-1] for trace in drawn.data)
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


def costs(points: Sequence[CostPoint], score: str) -> go.Figure:
    """A score with its 95 % interval against a cost that the reader chooses, the Pareto front."""
    known = [cost for cost in COSTS if all(cost in point.costs for point in points)]
    places = {cost: _places(points, cost) for cost in known}
    drawn = figure(
        420, yaxis={"title": {"text": f"{SCORES[score]} (%)"}}, **_axis(points, known[0])
    )
    for place, point in enumerate(points):
        label = literal(point.label)
        drawn.add_scatter(
            error_y={"type": "data", "array": numbers([point.score.half_width]), "thickness": 1.5},
            mode="markers",
            name=label,
            marker={"color": SERIES[place % len(SERIES)], "size": 10},
            hovertemplate=f"{point.score.text()} % at %{{x:.4s}}<extra>{label}</extra>",
        )
    front = {"color": GREY, "dash": "dot"}
    drawn.add_scatter(mode="lines", name="no other is both cheaper and better", line=front)
    for trace, (x, y) in zip(drawn.data, zip(*places[known[0]].values(), strict=True), strict=True):
        trace.update(x=x, y=y)
    buttons = [
        {"label": cost, "method": "update", "args": [places[cost], _axis(points, cost)]}
        for cost in known
    ]
    below = {"x": 0, "xanchor": "left", "y": 0, "yanchor": "top", "pad": {"t": 48}}
    return drawn.update_layout(updatemenus=[{"buttons": buttons, "direction": "up", **below}])


def _places(points: Sequence[CostPoint], cost: str) -> dict[str, list[list[Any]]]:
    """The coordinates of each point, and then of the front's line."""
    front = pareto_front(points, cost)
    lines = [*([point] for point in points), front]
    return {
        "x": [numbers(point.cost(cost) for point in line) for line in lines],
        "y": [numbers(point.score.mean for point in line) for line in lines],
    }


def _axis(points: Sequence[CostPoint], cost: str) -> dict[str, Any]:
    kind = "log" if spans_decades(points, cost) else "linear"
    return {"xaxis.title.text": COSTS[cost], "xaxis.type": kind}


def activation(drawn_of: Activation) -> go.Figure:
    """A layer's functions, one colour a group, their start dashed, above the inputs' density."""
    x = numbers(drawn_of.x[::_EVERY])
    drawn = figure(250, xaxis={"range": [x[0], x[-1]]}, showlegend=False)
    if drawn_of.histogram is not None and drawn_of.edges is not None:
        density = drawn_of.histogram.mean(axis=0)
        heights = {"range": [0, 1.8 * float(density.max())], "visible": False}
        drawn.update_layout(yaxis2={"overlaying": "y", "side": "right", **heights})
        drawn.add_bar(
            x=numbers((drawn_of.edges[:-1] + drawn_of.edges[1:]) / 2),
            width=numbers(drawn_of.edges[1:] - drawn_of.edges[:-1]),
            y=numbers(density),
            marker={"color": GREY, "opacity": 0.3, "line": {"width": 0}},
            yaxis="y2",
            hoverinfo="skip",
        )
    for group in drawn_groups(drawn_of.num_groups):
        _add_function(drawn, x, drawn_of.learned[group, ::_EVERY], group)
    drawn.add_scatter(
        x=x, y=numbers(drawn_of.start[0, ::_EVERY]), mode="lines", line=_START, hoverinfo="skip"
    )
    return drawn


def drawn_groups(groups: int) -> list[int]:
    """Which of so many groups are drawn: all, or 16 evenly chosen ones."""
    return spread(groups, _DRAWN_GROUPS)


def _add_function(drawn: go.Figure, x: list[Any], y: Any, group: int, **options: Any) -> None:
    drawn.add_scatter(
        x=x,
        y=numbers(y),
        mode="lines",
        line={"color": SERIES[group % len(SERIES)], "width": 1.6},
        hovertemplate=f"F(%{{x:.2f}}) = %{{y:.3g}}<extra>group {group}</extra>",
        **options,
    )


def evolution(history: Mapping[str, LayerHistory], points: Mapping[str, Any]) -> go.Figure:
    """The functions of a layer that the reader chooses, at a step that a slider chooses.

    Args:
        history: the coefficients by layer.
        points: (N,) of each layer, where its functions are drawn.
    """
    steps = next(iter(history.values())).steps.tolist()
    chosen = spread(len(steps), _FRAMES)
    layers = [_Moving(layer, points[name], chosen) for name, layer in history.items()]
    drawn = figure(460, showlegend=False, **layers[0].axes())
    for place, layer in enumerate(layers):
        for group, y in zip(layer.groups, layer.values[-1], strict=True):
            _add_function(drawn, layer.x, y, group, visible=place == 0)
        start = {"mode": "lines", "line": _START, "hoverinfo": "skip", "visible": place == 0}
        drawn.add_scatter(x=layer.x, y=numbers(layer.values[0, 0]), **start)
    moving = [n for n, trace in enumerate(drawn.data) if trace.line.dash is None]
    drawn.frames = [
        go.Frame(
            name=str(steps[at]),
            traces=moving,
            data=[{"y": numbers(y)} for layer in layers for y in layer.values[place]],
        )
        for place, at in enumerate(chosen)
    ]
    sizes = [len(layer.groups) + 1 for layer in layers]
    menus = [_layer_menu(list(history), layers, sizes), _play_button()]
    return drawn.update_layout(updatemenus=menus, sliders=[_step_slider(drawn.frames)])


class _Moving:
    """The functions of one layer at the chosen steps: values (steps, groups, N) at x (N,)."""

    def __init__(self, layer: LayerHistory, points: Any, chosen: list[int]) -> None:
        x = torch.as_tensor(points[:: 2 * _EVERY], dtype=torch.float64)
        functions = layer.functions(x)
        self.groups = drawn_groups(functions.shape[1])
        self.x = numbers(x)
        self.values = functions[chosen][:, self.groups].numpy()

    def axes(self) -> dict[str, Any]:
        """The ranges that hold all steps, as settings of the layout."""
        low, high = float(self.values.min()), float(self.values.max())
        room = 0.05 * (high - low)
        return {
            "xaxis.range": [self.x[0], self.x[-1]],
            "yaxis.range": numbers([low - room, high + room]),
        }


def _layer_menu(names: list[str], layers: Sequence[_Moving], sizes: list[int]) -> dict[str, Any]:
    owners = [place for place, size in enumerate(sizes) for _ in range(size)]
    buttons = [
        {
            "label": literal(name),
            "method": "update",
            "args": [{"visible": [owner == place for owner in owners]}, layer.axes()],
        }
        for place, (name, layer) in enumerate(zip(names, layers, strict=True))
    ]
    return {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def _play_button() -> dict[str, Any]:
    going = {"frame": {"duration": 150, "redraw": False}, **_AT_ONCE}
    stop = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", **_AT_ONCE}
    buttons = [
        {"label": "play", "method": "animate", "args": [None, going]},
        {"label": "pause", "method": "animate", "args": [[None], stop]},
    ]
    right = {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "direction": "left"}
    return {"type": "buttons", "showactive": False, "buttons": buttons, **right}


def _step_slider(frames: Sequence[go.Frame]) -> dict[str, Any]:
    there = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", **_AT_ONCE}
    steps = [
        {"label": frame.name, "method": "animate", "args": [[frame.name], there]}
        for frame in frames
    ]
    shown = {"active": len(steps) - 1, "currentvalue": {"prefix": "step "}}
    return {"steps": steps, **shown, "pad": {"t": 24}}


def gains(steps: Sequence[int], layers: Sequence[str], values: Any) -> go.Figure:
    """The gain realised by layer and step, from 1/8 to 8; 1 is preserved.

    Args:
        steps: S of them.
        layers: L names.
        values: (L, S), NaN where there is none.
    """
    powers = list(range(-3, 4))
    drawn = figure(90 + 22 * len(layers), xaxis={"title": {"text": "step"}})
    drawn.add_heatmap(
        x=list(map(str, steps)),
        y=list(map(literal, layers)),
        z=[numbers(map(_log2, row)) for row in values],
        customdata=[numbers(row) for row in values],
        autocolorscale=True,  # the page's
        zmin=powers[0],
        zmax=powers[-1],
        colorbar={"tickvals": powers, "ticktext": [f"{2.0**p:g}" for p in powers], "thickness": 12},
        hovertemplate="%{y}, step %{x}: gain %{customdata:.3g}<extra></extra>",
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    return drawn.update_xaxes(type="category", nticks=8)


def _log2(value: float) -> float:
    return math.log2(value) if 0 < value < math.inf else math.nan


def by_step(lines: Mapping[str, tuple[Sequence[int], Any]], title: str) -> go.Figure:
    """A quantity against steps of training, one line a layer."""
    drawn = figure(320, xaxis={"title": {"text": "step"}}, yaxis={"title": {"text": title}})
    drawn.update_layout(showlegend=False)
    for place, (name, (steps, values)) in enumerate(lines.items()):
        drawn.add_scatter(
            x=list(steps),
            y=numbers(values),
            mode="lines",
            line={"color": SERIES[place % len(SERIES)], "width": 1.6},
            hovertemplate=f"step %{{x}}: %{{y:.3g}}<extra>{literal(name)}</extra>",
        )
    return drawn
