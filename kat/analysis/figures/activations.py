"""Figures of learned rationals: as they are, and over the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.animation import FFMpegWriter, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kat.analysis.choices import ANIMATED
from kat.analysis.figures import base
from kat.analysis.figures.base import hover, label_lines, panels, save_figure
from kat.analysis.inspect.activations import Activation, Array, spread
from kat.files import replacing
from kat.nn import LayerHistory

_COLUMNS, _HEIGHT = 2, 2.0
"""Panels side by side, and the height of each in inches."""
_LINES = 8
"""Groups of a layer that have a line at most, evenly spaced."""
_SNAPSHOTS = 4
"""Columns of the small multiples."""
_FRAMES = 32
_FRAMES_PER_SECOND = 10
_HELD = 8
"""Frames that an animation ends with, all the same."""


def plot_activations(activations: Sequence[Activation], path: str | Path) -> None:
    """Draw every learned rational, one panel per layer and one line per group, its start dashed.

    The density of the inputs over all groups, if known, is gray. With more than 8 groups, draw 8
    and a band for all.

    Args:
        activations: what :func:`kat.analysis.learned_activations` returns.
        path: the path of the file; its suffix chooses the format.

    Examples:
        >>> from pathlib import Path
        >>> import kat
        >>> from kat.analysis import learned_activations, plot_activations
        >>> model = kat.models.create_model("kat_micro", depth=2)
        >>> plot_activations(learned_activations(model), Path("activations.png"))
    """
    save_figure(draw_activations(activations), path)


@base.styled
def draw_activations(activations: Sequence[Activation]) -> Figure:
    """Draw the figure of :func:`plot_activations`."""
    figure, drawn = panels(len(activations), _COLUMNS, _HEIGHT)
    for axes, activation in zip(drawn, activations, strict=True):
        _draw_inputs(axes, activation.name, activations)
        lines = _draw_groups(axes, activation.x, activation.learned)
        _draw_start(axes, activation.x, activation.start)
        label_lines(axes, lines, size=8)
        axes.set_title(activation.name, fontsize=9)
    behind = ", gray: the inputs" if activations[0].histogram is not None else ""
    some = _drawn(max(activation.num_groups for activation in activations))
    figure.suptitle(f"Learned functions by group (dashed: the start{behind}){some}")
    return figure


def plot_evolution(
    history: Mapping[str, LayerHistory],
    path: str | Path,
    *,
    width: float = 3.0,
    seen: Sequence[Activation] = (),
) -> None:
    """Draw rationals over the training: a row per layer, a column per step, a line per group.

    A path that ends in ``.gif`` or ``.mp4`` (by ffmpeg) becomes an animation with one panel per
    layer instead.

    Args:
        history: what :func:`kat.nn.read_coefficient_history` returns.
        path: the path of the file; its suffix chooses the format.
        width: the panels show x from -width to width.
        seen: layers with their inputs, whose density is gray.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_evolution
        >>> from kat.nn import read_coefficient_history
        >>> history = read_coefficient_history(Path("runs/digits/coefficients.csv"))
        >>> plot_evolution(history, Path("evolution.png"))
    """
    path = Path(path)
    if path.suffix in ANIMATED:
        _animate(history, width, seen, path)
    else:
        save_figure(draw_evolution(history, width=width, seen=seen), path)


def _functions(
    history: Mapping[str, LayerHistory], width: float
) -> tuple[Array, dict[str, Array], list[int]]:
    """Return points (N,), the functions (steps, groups, N) of each layer, and the steps."""
    x = torch.linspace(-width, width, 201, dtype=torch.float64)
    functions = {name: layer.functions(x).numpy() for name, layer in history.items()}
    return x.numpy(), functions, next(iter(history.values())).steps.tolist()


@base.styled
def draw_evolution(
    history: Mapping[str, LayerHistory], *, width: float = 3.0, seen: Sequence[Activation] = ()
) -> Figure:
    """Draw the small multiples of :func:`plot_evolution`."""
    x, functions, steps = _functions(history, width)
    places = spread(len(steps), _SNAPSHOTS)
    figure = Figure(figsize=(base.WIDTH, 0.8 + 1.2 * len(functions)), layout="constrained")
    rows = figure.subplots(len(functions), len(places), sharex=True, sharey="row", squeeze=False)
    for row, (name, values) in zip(rows, functions.items(), strict=True):
        for axes, place in zip(row, places, strict=True):
            _draw_inputs(axes, name, seen)
            lines = _draw_groups(axes, x, values[place])
            _draw_start(axes, x, values[0])
        label_lines(axes, lines, size=8)
        row[0].set_title(name, fontsize=9)
    for axes, place in zip(rows[-1], places, strict=True):
        axes.set_xlabel(f"step {steps[place]}")
    drawn = _drawn(max(values.shape[1] for values in functions.values()))
    figure.suptitle(f"Functions by group over the training (dashed: the start){drawn}")
    return figure


@base.styled
def _animate(
    history: Mapping[str, LayerHistory], width: float, seen: Sequence[Activation], path: Path
) -> None:
    x, functions, steps = _functions(history, width)
    kind = PillowWriter if path.suffix == ".gif" else FFMpegWriter
    writer = kind(fps=_FRAMES_PER_SECOND)
    figure, drawn = panels(len(functions), _COLUMNS, _HEIGHT)
    lines = []
    for axes, (name, values) in zip(drawn, functions.items(), strict=True):
        _draw_inputs(axes, name, seen)
        lines.append(_draw_groups(axes, x, values[-1]))
        _draw_start(axes, x, values[0])
        margin = 0.05 * max(np.ptp(values), 1e-6)
        axes.set_ylim(values.min() - margin, values.max() + margin)
        axes.set_title(name, fontsize=9)
        label_lines(axes, lines[-1], size=8)
    title = figure.suptitle("step 0")
    places = spread(len(steps), _FRAMES)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or every frame would be laid out anew
    with replacing(path) as partial, writer.saving(figure, str(partial), dpi=80):
        for place in [*places, *[places[-1]] * _HELD]:
            title.set_text(f"Functions by group at step {steps[place]} (dashed: the start)")
            for values, own in zip(functions.values(), lines, strict=True):
                for line, y in zip(own, _chosen(values[place]), strict=True):
                    line.set_ydata(y)
            writer.grab_frame()


def _draw_groups(axes: Axes, x: Array, functions: Array) -> list[Line2D]:
    """Draw a line for each chosen group, and the range of all behind them."""
    groups = spread(len(functions), _LINES)
    if len(groups) < len(functions):
        axes.fill_between(x, functions.min(0), functions.max(0), color=base.MUTED, alpha=0.3, lw=0)
    lines = []
    for group, color in zip(groups, base.colors(len(groups)), strict=True):
        lines += axes.plot(x, functions[group], lw=1, color=color, label=str(group))
        hover(lines[-1], f"group {group}")
    return lines


def _draw_start(axes: Axes, x: Array, functions: Array) -> None:
    """Draw the functions at the start, which the groups of a new model share."""
    for y in np.unique(_chosen(functions), axis=0):
        axes.plot(x, y, "--", lw=0.9, color=base.INK)


def _draw_inputs(axes: Axes, layer: str, seen: Sequence[Activation]) -> None:
    """Draw the inputs of a layer, if known, behind the lines, on an axis without numbers."""
    for own in seen:
        if own.name == layer and own.histogram is not None and own.edges is not None:
            density = own.histogram.mean(0)
            behind = axes.twinx()
            behind.stairs(density, own.edges, fill=True, color=base.MUTED, alpha=0.25)
            behind.set(yticks=[], ylim=(0, 1.1 * density.max()), frame_on=False)
            axes.set_zorder(behind.get_zorder() + 1)
            axes.patch.set_visible(False)


def _chosen(functions: Array) -> Array:
    return functions[spread(len(functions), _LINES)]


def _drawn(groups: int) -> str:
    """Return the part of the title about groups that are left out."""
    return f"\n{_LINES} of {groups} groups" if groups > _LINES else ""
