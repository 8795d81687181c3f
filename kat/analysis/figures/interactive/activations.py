"""Learned rationals: as they are, and over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from kat.analysis.figures.interactive.base import GREY, figure, line_color, literal, numbers
from kat.analysis.inspect.activations import Activation, spread
from kat.nn import LayerHistory

_STRIDE = 2
"""Every second point of a function is drawn; over the training every fourth."""
_DRAWN_GROUPS, _FRAMES = 16, 24
"""At most so many groups of a layer and so many steps of the training are drawn."""
_START = {"color": GREY, "width": 1.4, "dash": "dash"}
_AT_ONCE = {"transition": {"duration": 0}}


def activation(layer: Activation) -> go.Figure:
    """Draws the functions of a layer, one color per group, their start, and the inputs' density."""
    x = numbers(layer.x[::_STRIDE])
    drawn = figure(250, xaxis={"range": [x[0], x[-1]]}, showlegend=False)
    if layer.histogram is not None and layer.edges is not None:
        density = layer.histogram.mean(axis=0)
        heights = {"range": [0, 1.8 * float(density.max())], "visible": False}
        drawn.update_layout(yaxis2={"overlaying": "y", "side": "right", **heights})
        drawn.add_bar(
            x=numbers((layer.edges[:-1] + layer.edges[1:]) / 2),
            width=numbers(layer.edges[1:] - layer.edges[:-1]),
            y=numbers(density),
            marker={"color": GREY, "opacity": 0.3, "line": {"width": 0}},
            yaxis="y2",
            hoverinfo="skip",
        )
    for group in drawn_groups(layer.num_groups):
        _add_function(drawn, x, layer.learned[group, ::_STRIDE], group)
    for y in np.unique(layer.start[drawn_groups(layer.num_groups), ::_STRIDE], axis=0):
        drawn.add_scatter(x=x, y=numbers(y), mode="lines", line=_START, hoverinfo="skip")
    return drawn


def drawn_groups(groups: int) -> list[int]:
    """The groups that are drawn: all, or 16 evenly spaced ones."""
    return spread(groups, _DRAWN_GROUPS)


def _add_function(drawn: go.Figure, x: list[Any], y: Any, group: int, **options: Any) -> None:
    drawn.add_scatter(
        x=x,
        y=numbers(y),
        mode="lines",
        line={"color": line_color(group), "width": 1.6},
        hovertemplate=f"F(%{{x:.2f}}) = %{{y:.3g}}<extra>group {group}</extra>",
        **options,
    )


def evolution(history: Mapping[str, LayerHistory], points: Mapping[str, Any]) -> go.Figure:
    """Draws the functions of a layer that the reader chooses, at a step that a slider chooses.

    Args:
        history: the coefficients by layer.
        points: (N,) by layer, where its functions are drawn.
    """
    steps = next(iter(history.values())).steps.tolist()
    chosen = spread(len(steps), _FRAMES)
    layers = [_Frames(layer, points[name], chosen) for name, layer in history.items()]
    drawn = figure(460, showlegend=False, **layers[0].axes())
    for place, layer in enumerate(layers):
        for group, y in zip(layer.groups, layer.values[-1], strict=True):
            _add_function(drawn, layer.x, y, group, visible=place == 0)
        start = {"mode": "lines", "line": _START, "hoverinfo": "skip", "visible": place == 0}
        for y in layer.starts:
            drawn.add_scatter(x=layer.x, y=numbers(y), **start)
    moving = [n for n, trace in enumerate(drawn.data) if trace.line.dash is None]
    drawn.frames = [
        go.Frame(
            name=str(steps[at]),
            traces=moving,
            data=[{"y": numbers(y)} for layer in layers for y in layer.values[place]],
        )
        for place, at in enumerate(chosen)
    ]
    sizes = [len(layer.groups) + len(layer.starts) for layer in layers]
    menus = [_layer_menu(list(history), layers, sizes), _play_button()]
    return drawn.update_layout(updatemenus=menus, sliders=[_step_slider(drawn.frames)])


class _Frames:
    """The functions of one layer at the chosen steps: values (steps, groups, N) at x (N,)."""

    def __init__(self, layer: LayerHistory, points: Any, chosen: list[int]) -> None:
        x = torch.as_tensor(points[:: 2 * _STRIDE], dtype=torch.float64)
        functions = layer.functions(x)
        self.groups = drawn_groups(functions.shape[1])
        self.x = numbers(x)
        self.values = functions[chosen][:, self.groups].numpy()
        self.starts = np.unique(self.values[0], axis=0)

    def axes(self) -> dict[str, Any]:
        """The ranges that hold all steps, as settings of the layout."""
        low, high = float(self.values.min()), float(self.values.max())
        room = 0.05 * (high - low)
        return {
            "xaxis.range": [self.x[0], self.x[-1]],
            "yaxis.range": numbers([low - room, high + room]),
        }


def _layer_menu(names: list[str], layers: Sequence[_Frames], sizes: list[int]) -> dict[str, Any]:
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
    play = {"frame": {"duration": 150, "redraw": False}, **_AT_ONCE}
    pause = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", **_AT_ONCE}
    buttons = [
        {"label": "play", "method": "animate", "args": [None, play]},
        {"label": "pause", "method": "animate", "args": [[None], pause]},
    ]
    right = {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "direction": "left"}
    return {"type": "buttons", "showactive": False, "buttons": buttons, **right}


def _step_slider(frames: Sequence[go.Frame]) -> dict[str, Any]:
    jump = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate", **_AT_ONCE}
    steps = [
        {"label": frame.name, "method": "animate", "args": [[frame.name], jump]} for frame in frames
    ]
    shown = {"active": len(steps) - 1, "currentvalue": {"prefix": "step "}}
    return {"steps": steps, **shown, "pad": {"t": 24}}
