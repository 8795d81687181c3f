"""The figure of monitored runs: the gain of each layer at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from kat.analysis.figures.base import WIDTH, plain, save_figure, styled
from kat.analysis.inspect.stability import layers_of, rational_rows
from kat.nn.stability import Row


def plot_stability(runs: Mapping[str, Sequence[Row]], path: str | Path) -> None:
    """Draw the gain of each layer at each step, several runs side by side with the same colors.

    Args:
        runs: rows by label; a single run needs no label.
        path: the path of the file; its suffix chooses the format.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_stability
        >>> from kat.nn.stability import read_rows
        >>> rows = read_rows(Path("runs/digits/stability.csv"))
        >>> plot_stability({"": rows}, Path("gain.svg"))
    """
    save_figure(draw_gains(runs), path)


@styled
def draw_gains(runs: Mapping[str, Sequence[Row]]) -> Figure:
    """Draw the figure of :func:`plot_stability`."""
    rationals = {label: rational_rows(rows) for label, rows in runs.items()}
    height = max(len(layers_of(rows)) for rows in rationals.values())
    figure = Figure(figsize=(WIDTH, 1.2 + 0.22 * height), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, (label, rows) in zip(panels, rationals.items(), strict=True):
        layers, steps = layers_of(rows), list(dict.fromkeys(row["step"] for row in rows))
        gains = {(row["layer"], row["step"]): row["gain"] for row in rows}
        table = []
        for layer in layers:
            table.append([gains.get((layer, step), math.nan) for step in steps])
        image = axes.imshow(
            np.clip(table, 1 / 16, 16),  # zero has no place on the scale
            aspect="auto",
            interpolation="nearest",
            norm=LogNorm(1 / 8, 8),
            cmap="RdBu_r",
        )
        shown = range(0, len(steps), -(-len(steps) * len(runs) // 5))
        axes.set_xticks(list(shown), [str(steps[index]) for index in shown])
        axes.set_yticks(range(len(layers)), layers)
        axes.grid(visible=False)
        axes.set(xlabel="step", title=plain(label))
    figure.suptitle("Gain, E[y^2] / E[x^2]; 1 is preserved")
    ticks = [2.0**power for power in range(-3, 4)]
    figure.colorbar(image, ax=panels, extend="both", ticks=ticks, format="%g").minorticks_off()
    return figure
