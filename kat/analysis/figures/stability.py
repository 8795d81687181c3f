"""Figures of a monitored run: variance by layer, heat maps of layer and step, lines over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from kat.analysis.figures.labels import plain
from kat.analysis.figures.save import save_figure
from kat.analysis.inspect.stability import (
    drawable,
    layer_by_step,
    layers_of,
    rational_rows,
    steps_of,
    thinned,
)
from kat.nn.monitoring.stability import Row


class Quantity(NamedTuple):
    """What is drawn of a run.

    Args:
        name: the name of the column.
        caption: the caption of the figure.
        log: whether its axis is logarithmic.
    """

    name: str
    caption: str
    log: bool


MAPS = (
    Quantity("gain", "Gain, E[y^2] / E[x^2]; 1 is preserved", True),
    Quantity("input_variance", "Variance of the inputs x", True),
    Quantity("activation_variance", "Variance of F(x)", True),
    Quantity("output_variance", "Variance of the outputs y", True),
    Quantity("input_gradient", "Norm of the gradient with respect to x", True),
    Quantity("weight_gradient", "Norm of the gradient of the weights", True),
    Quantity("outside", "Share of x outside the fit interval", False),
    Quantity("q_max", "Largest Q(x)", True),
    Quantity("q_min", "Smallest Q(x)", True),
)
"""Drawn as heat maps."""
LINES = (
    Quantity("gain", "Gain, E[y^2] / E[x^2]", True),
    Quantity("drift", "Drift of the coefficients, |c - c_0| / |c_0|", False),
    Quantity("numerator_gradient", "Norm of the gradient of the numerators", True),
    Quantity("denominator_gradient", "Norm of the gradient of the denominators", True),
)
"""Drawn as lines."""
BLOCKS = Quantity(
    "output_variance", "Variance of the output of each block (the residual stream)", True
)


def plot_stability(runs: Mapping[str, Sequence[Row]], path: str | Path) -> None:
    """Draws the gain of each layer at each step, several runs side by side with the same colors.

    Args:
        runs: rows by label; a single run needs no label.
        path: the path of the file; its suffix chooses the format.

    Raises:
        InputError: a run has no rows of rational layers.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_stability
        >>> from kat.nn.monitoring.stability import read_rows
        >>> rows = read_rows(Path("runs/digits/stability.csv"))
        >>> plot_stability({"": rows}, Path("gain.svg"))
    """
    drawn = {label: thinned(rational_rows(rows)) for label, rows in runs.items()}
    save_figure(draw_map(drawn, MAPS[0]), path)


def draw_map(runs: Mapping[str, Sequence[Row]], quantity: Quantity) -> Figure:
    """Draws a quantity as a heat map of layer and step, the runs side by side."""
    name, caption, log = quantity
    tables = {label: layer_by_step(rows, name, log) for label, rows in runs.items()}
    height = max(len(table) for table in tables.values())
    figure = Figure(figsize=(9, 1.2 + 0.22 * height), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    norm = LogNorm(1 / 8, 8) if name == "gain" else _norm(list(tables.values()), log)
    colors = "RdBu_r" if name == "gain" else "viridis"
    for axes, (label, rows) in zip(panels, runs.items(), strict=True):
        image = axes.imshow(
            tables[label], aspect="auto", interpolation="nearest", norm=norm, cmap=colors
        )
        steps, layers = steps_of(rows), layers_of(rows)
        shown = range(0, len(steps), -(-len(steps) * len(runs) // 10))
        axes.set_xticks(list(shown), [str(steps[index]) for index in shown])
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.set(xlabel="step", title=plain(label))
    figure.suptitle(caption)
    if name == "gain":
        ticks = [2.0**power for power in range(-3, 4)]
        bar = figure.colorbar(image, ax=panels, extend="both", ticks=ticks, format="%g")
        bar.minorticks_off()
    else:
        figure.colorbar(image, ax=panels)
    return figure


def _norm(tables: Sequence[Any], log: bool) -> Normalize:
    """The same colors for all tables; logarithmic where values differ by more than twice."""
    seen = np.concatenate([table[np.isfinite(table)] for table in tables])
    low, high = (seen.min(), seen.max()) if seen.size else (1.0, 1.0)
    if not log:
        return Normalize(0, high)
    return LogNorm(low, high) if high > 2 * low else Normalize(low, high)


def draw_lines(rows: Sequence[Row], quantity: Quantity) -> Figure:
    """Draws a quantity against steps, one line per layer."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = layers_of(rows)
    for place, layer in enumerate(layers):
        own = [row for row in rows if row["layer"] == layer]
        axes.plot(
            [row["step"] for row in own],
            [drawable(row.get(quantity.name), quantity.log) for row in own],
            ".-",
            lw=1,
            color=mpl.colormaps["viridis"](place / max(1, len(layers) - 1)),
            label=layer,
        )
    if quantity.log and any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.set_yscale("log")
    axes.set(xlabel="step", title=quantity.caption)
    axes.grid(alpha=0.3)
    if len(layers) <= 30:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
