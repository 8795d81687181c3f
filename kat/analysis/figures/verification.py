"""The figure of a verification: errors against |x|."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kat.analysis.verify.compare import Result

Range = tuple[float, float]
"""The ends of a range of |x|."""

DRAWN = ("y", "dx", "da", "db")
"""The quantities that are drawn."""
_CEILING = 1e3
"""Larger, infinite and NaN errors are drawn here."""


def range_of(name: str) -> Range | None:
    """A range of |x| by its name; None for special values, and for the inputs of a model."""
    low, _, high = name.partition("..")
    return (float(low), float(high)) if high and float(low) > 0 else None


def errors_by_range(results: Iterable[Result]) -> dict[tuple[str, str], dict[Range, float]]:
    """For each backend and quantity, the largest error in each range of |x|, in order of |x|."""
    largest: dict[tuple[str, str], dict[Range, float]] = defaultdict(dict)
    for result in results:
        of_range = largest[result.backend, result.quantity]
        for name, error in zip(result.ranges, result.errors, strict=True):
            ends = range_of(name)
            if ends and not math.isnan(error):
                of_range[ends] = max(of_range.get(ends, 0.0), error)
    return {key: dict(sorted(errors.items())) for key, errors in largest.items()}


def draw_errors(results: Sequence[Result]) -> Figure:
    """Draws the largest error against |x|, one panel per quantity and one line per backend.

    Args:
        results: the results in one dtype, a key of :data:`DRAWN`.
    """
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = dict(zip(DRAWN, figure.subplots(2, 2, sharex=True, sharey=True).flat, strict=True))
    by_range = errors_by_range(results)
    backends = list(dict.fromkeys(backend for backend, _ in by_range))
    floor = 1e-10 if results[0].dtype != "float64" else 1e-19
    for (backend, quantity), errors in by_range.items():
        clipped = {ends: min(max(error, floor), _CEILING) for ends, error in errors.items()}
        _draw(panels[quantity], clipped, backend, backends.index(backend))
    for quantity, axes in panels.items():
        axes.set(yscale="log", title=quantity)
        axes.axhline(_CEILING, color="black", lw=0.5)
        axes.grid(alpha=0.3)
    for quantity in ("da", "db"):
        panels[quantity].set_xlabel("log10 |x|")
    for quantity in ("y", "da"):
        panels[quantity].set_ylabel("error / scale")
    panels["y"].legend(fontsize=8)
    return figure


def _draw(axes: Axes, errors: Mapping[Range, float], backend: str, number: int) -> None:
    """Draws one line. Styles differ, since lines of backends that agree coincide."""
    x = [math.log10(low) / 2 + math.log10(high) / 2 for low, high in errors]
    style = ("-", "--", ":", "-.")[number % 4]
    axes.plot(
        x, [*errors.values()], style, color=f"C{number}", lw=1.5, marker=".", ms=3, label=backend
    )
