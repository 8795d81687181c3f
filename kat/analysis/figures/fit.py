"""The figure of a fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from kat.analysis.figures.base import INK, MUTED, WIDTH, colors, label_lines, save_figure, styled
from kat.nn.fitting import Fit, Points, resolve, twice


@styled
def plot_fit(result: Fit, target: str | Points, path: str | Path) -> None:
    """Draw a function with its fit, and the error below, over twice the fit interval.

    The axis of a function's error is linear up to about the largest error on the interval, and
    logarithmic beyond.

    Args:
        result: what :func:`kat.nn.fitting.fit` returns.
        target: what was fitted.
        path: the path of the file; its suffix chooses the format.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import plot_fit
        >>> from kat.nn.fitting import fit
        >>> plot_fit(fit("silu"), "silu", Path("silu.png"))
    """
    left, right = twice(result.interval)
    x = np.linspace(left, right, 2001)
    source = resolve(target)[1]
    is_table = isinstance(source, Points)
    at, y = (source.x, source.y) if isinstance(source, Points) else (x, source(x))
    figure = Figure(figsize=(WIDTH, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    color, style = colors(2)[1], "." if is_table else "-"
    upper.plot(at, y, style, lw=3, color=INK, alpha=0.4, label=result.function)
    upper.set_ylim(upper.get_ylim())
    upper.plot(
        x, result(x), lw=1.2, color=color, label=f"F, form {result.form}, degree {result.degree}"
    )
    lower.plot(at, result(at) - y, style, lw=1, color=color)
    lower.axhspan(-result.max_error, result.max_error, color=MUTED, alpha=0.25, lw=0)
    if not is_table and result.max_error > 0:
        lower.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(result.max_error)))
    low, high = result.interval
    for axes in (upper, lower):
        axes.axvspan(low, high, color=MUTED, alpha=0.15, lw=0)
    label_lines(upper, upper.lines)
    upper.set_title(f"{result.function}, fitted on [{low:g}, {high:g}] (shaded)")
    lower.set(xlabel="x", title=f"error, F - f (band: {result.max_error:.2g})")
    save_figure(figure, path)
