"""The report of a monitored run: a verdict in words, heat maps of layer against step, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from kat.analysis.figures.plots import save_figure
from kat.analysis.reports.page import Report
from kat.errors import InputError
from kat.nn.stability import DEAD_VARIANCE, EXPLODING_MOMENT, Row

PRESERVED = (0.5, 2.0)
"""Gains within a factor of two of 1 count as preserved."""
_DRAWN_STEPS = 300
"""More would make a page of many megabytes, and cannot be told apart."""
OUTSIDE = 0.05
"""A layer with a larger share of inputs outside the fit interval is named."""


@dataclass(frozen=True)
class Verdict:
    """What a monitored run shows, in words.

    Args:
        preserved: whether every gain recorded is within :data:`PRESERVED`, and nothing failed.
        lines: one statement each, the verdict itself first.
    """

    preserved: bool
    lines: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], failure: str | None = None) -> Verdict:
        """Judges the rows of a run.

        Args:
            rows: in the order of steps, and within a step of layers.
            failure: what stopped the run, if something did.
        """
        rationals = rational_rows(rows)
        broken = [row for row in rationals if not _is_preserved(row["gain"])]
        lines = [_headline(broken, start=rationals[0]["step"])]
        steps = [rationals[0]["step"], rationals[-1]["step"]]
        lines += [_gains_at(step, rationals) for step in dict.fromkeys(steps)]
        lines += [_groups("dead", rationals), _groups("exploding", rationals)]
        lines += [_outside(rationals), _denominator(rationals)]
        if failure is not None:
            lines.insert(0, f"The run was stopped: {failure}")
        return cls(not broken and failure is None, lines)


def rational_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of rational layers; those of blocks have no coefficients that could drift.

    Raises:
        InputError: there is none.
    """
    rationals = [row for row in rows if "drift" in row and "gain" in row]
    if not rationals:
        raise InputError("the record of the run is empty: no step was monitored")
    return rationals


def _is_preserved(gain: float) -> bool:
    return PRESERVED[0] <= gain <= PRESERVED[1]


def _headline(broken: Sequence[Row], start: int) -> str:
    low, high = PRESERVED
    bounds = f"preserved: E[y^2] / E[x^2] from {low:g} to {high:g}"
    if not broken:
        return f"Variance preserved in every layer at every recorded step ({bounds})."
    first = broken[0]
    if first["step"] == start:
        begin = "Variance not preserved from the start: it breaks first"
    else:
        begin = "Variance preserved at the start, not throughout: it breaks first"
    return (
        f"{begin} at step {first['step']} in {first['layer']}, gain {first['gain']:.3g} ({bounds})."
    )


def _gains_at(step: int, rationals: Sequence[Row]) -> str:
    at = [row for row in rationals if row["step"] == step]
    good = sum(_is_preserved(row["gain"]) for row in at)
    preserved = f"Step {step}: preserved in {good} of {len(at)} layers"
    finite, others = _finite(at, "gain")
    if not finite:
        return f"{preserved}, and no gain is finite."
    lowest = min(finite, key=lambda row: row["gain"])
    highest = max(finite, key=lambda row: row["gain"])
    return (
        f"{preserved}, gains from {lowest['gain']:.3g} ({lowest['layer']}) to"
        f" {highest['gain']:.3g} ({highest['layer']}){others}."
    )


def _finite(rows: Sequence[Row], *names: str) -> tuple[list[Row], str]:
    """The rows whose values of these names are finite, and how to mention the others."""
    finite = [row for row in rows if all(math.isfinite(row[name]) for name in names)]
    missing = len(rows) - len(finite)
    return finite, f"; {missing} not finite" if missing else ""


def _groups(kind: str, rationals: Sequence[Row]) -> str:
    found = [row for row in rationals if row[f"{kind}_groups"] > 0]
    bound = {
        "dead": f"variance of F(x) below {DEAD_VARIANCE:g}",
        "exploding": f"E[F(x)^2] above {EXPLODING_MOMENT:g}, or not finite",
    }[kind]
    if not found:
        return f"No {kind} groups ({bound})."
    worst = max(found, key=lambda row: row[f"{kind}_groups"])
    return (
        f"{kind.capitalize()} groups ({bound}): first at step {found[0]['step']} in"
        f" {found[0]['layer']}; most in {worst['layer']} at step {worst['step']},"
        f" {worst[f'{kind}_groups']:.0f}."
    )


def _outside(rationals: Sequence[Row]) -> str:
    rationals, others = _finite(rationals, "outside", "input_variance")
    if not rationals:
        return "Inputs outside the fit interval: nothing is finite."
    worst = max(rationals, key=lambda row: row["outside"])
    above = [row for row in rationals if row["outside"] > OUTSIDE]
    since = (
        f"; above {OUTSIDE:.0%} first at step {above[0]['step']} in {above[0]['layer']}"
        if above
        else ""
    )
    return (
        f"Inputs outside the fit interval: at most {worst['outside']:.2%}, in {worst['layer']} at"
        f" step {worst['step']}{since}{others}."
    )


def _denominator(rationals: Sequence[Row]) -> str:
    rationals, others = _finite(rationals, "q_min", "q_max")
    if not rationals:
        return "Q(x) is finite nowhere."
    worst = max(rationals, key=lambda row: row["q_max"])
    lowest = min(row["q_min"] for row in rationals)
    return (
        f"Q(x) from {lowest:.3g} to {worst['q_max']:.3g}, the largest in {worst['layer']} at step"
        f" {worst['step']}{others}."
    )


def write_stability_report(rows: Sequence[Row], path: Path, failure: str | None = None) -> None:
    """Writes the report of a run as one self-contained HTML page.

    Args:
        rows: what a :class:`kat.analysis.StabilityMonitor` recorded.
        path: where to write.
        failure: what stopped the run, if something did.

    Raises:
        InputError: there are no rows of rational layers.
    """
    verdict = Verdict.of(rows, failure)
    rationals = rational_rows(rows)
    report = Report("Training stability")
    for line in verdict.lines:
        report.text(line)
    report.heading("Variance by layer")
    report.figure(
        _variance_figure({"": rationals}),
        "Variance of inputs, activations and outputs, first step and last.",
    )
    report.heading("Layers")
    _table(report, rationals)
    drawn = thinned(rationals)
    report.heading("Layer against step")
    for name, caption, log in _MAPS:
        report.figure(_heat_map({"": drawn}, name, caption, log), caption)
    report.heading("Over training")
    for name, caption, log in _LINES:
        report.figure(_lines(drawn, name, caption, log), caption)
    blocks = [row for row in rows if "drift" not in row]
    if blocks:
        caption = "Variance of the output of each block (the residual stream)"
        report.figure(_lines(thinned(blocks), "output_variance", caption, True), caption)
    report.write(path)


_MAPS = (
    ("gain", "Gain realised, E[y^2] / E[x^2]; 1 is preserved", True),
    ("input_variance", "Variance of the inputs x", True),
    ("activation_variance", "Variance of F(x)", True),
    ("output_variance", "Variance of the outputs y", True),
    ("input_gradient", "Norm of the loss's gradient for x", True),
    ("weight_gradient", "Norm of the gradient of the weights", True),
    ("outside", "Share of x outside the fit interval", False),
    ("q_max", "Largest Q(x)", True),
    ("q_min", "Smallest Q(x)", True),
)
_LINES = (
    ("gain", "Gain realised, E[y^2] / E[x^2]", True),
    ("drift", "Drift of the coefficients, |c - c_0| / |c_0|", False),
    ("numerator_gradient", "Norm of the gradient of the numerators", True),
    ("denominator_gradient", "Norm of the gradient of the denominators", True),
)


def _table(report: Report, rationals: Sequence[Row]) -> None:
    columns = (
        "layer", "gain at the start", "at the end", "least", "most", "not preserved from step",
        "outside, most", "Q, least", "most", "drift at the end", "dead groups", "exploding",
    )  # fmt: skip
    cells, bad = [], []
    for layer in layers_of(rationals):
        own = [row for row in rationals if row["layer"] == layer]
        gains = [row["gain"] for row in own]
        broken = [row["step"] for row in own if not _is_preserved(row["gain"])]
        cells.append(
            (
                layer,
                *(f"{gain:.3g}" for gain in (gains[0], gains[-1], min(gains), max(gains))),
                broken[0] if broken else "",
                f"{max(row['outside'] for row in own):.2%}",
                f"{min(row['q_min'] for row in own):.3g}",
                f"{max(row['q_max'] for row in own):.3g}",
                f"{own[-1]['drift']:.3g}",
                f"{max(row['dead_groups'] for row in own):.0f}",
                f"{max(row['exploding_groups'] for row in own):.0f}",
            )
        )
        bad.append(bool(broken))
    report.table(columns, cells, bad)


def layers_of(rows: Sequence[Row]) -> list[str]:
    """The names of the layers, in their order."""
    return list(dict.fromkeys(row["layer"] for row in rows))


def steps_of(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row["step"] for row in rows))


def thinned(rows: Sequence[Row]) -> list[Row]:
    """The rows of at most about 300 steps, evenly chosen, the last among them."""
    steps = steps_of(rows)
    chosen = {*steps[:: -(-len(steps) // _DRAWN_STEPS)], steps[-1]}
    return [row for row in rows if row["step"] in chosen]


def plot_stability(runs: Mapping[str, Sequence[Row]], folder: Path) -> None:
    """Draws variance.svg, and one heat map a quantity: gain.svg, input_variance.svg and so on.

    Several runs are drawn side by side, on one scale of colours.

    Args:
        runs: label of each run to its rows; one alone needs no label.
        folder: where to write; it is made if need be.

    Raises:
        InputError: a run has no rows of rational layers.
    """
    drawn = {label: thinned(rational_rows(rows)) for label, rows in runs.items()}
    save_figure(_variance_figure(drawn), folder / "variance.svg")
    for name, caption, log in _MAPS:
        save_figure(_heat_map(drawn, name, caption, log), folder / f"{name}.svg")


def _variance_figure(runs: Mapping[str, Sequence[Row]]) -> Figure:
    """Variance of x, F(x) and y by layer at the first step and at the last, one line a run."""
    figure = Figure(figsize=(10, 0.4 + 3.4 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), 2, squeeze=False, sharey=True)
    for line, (label, rows) in zip(panels, runs.items(), strict=True):
        for axes, step in zip(line, (rows[0]["step"], rows[-1]["step"]), strict=True):
            _variance_panel(axes, [row for row in rows if row["step"] == step])
            axes.set_title(f"{label}, step {step}" if label else f"step {step}")
        line[0].set_ylabel("variance")
    panels[0][0].legend()
    return figure


def _variance_panel(axes: Axes, rows: Sequence[Row]) -> None:
    for key, marker, label in (
        ("input_variance", "o", "x"),
        ("activation_variance", "^", "F(x)"),
        ("output_variance", "s", "y = W F(x) + b"),
    ):
        axes.plot(range(len(rows)), [_positive(row[key]) for row in rows], marker, label=label)
    axes.axhline(1, color="black", lw=0.8)
    axes.set_yscale("log")
    names = [row["layer"] for row in rows]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.grid(alpha=0.3)


def _positive(value: float | None) -> float:
    """The value where a logarithmic axis can show it."""
    return value if value is not None and 0 < value < math.inf else math.nan


def _any(value: float | None) -> float:
    return math.nan if value is None else value


def _heat_map(runs: Mapping[str, Sequence[Row]], name: str, caption: str, log: bool) -> Figure:
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
        axes.set(xlabel="step", title=label)
    figure.suptitle(caption)
    if name == "gain":
        ticks = [2.0**power for power in range(-3, 4)]
        bar = figure.colorbar(image, ax=panels, extend="both", ticks=ticks, format="%g")
        bar.minorticks_off()
    else:
        figure.colorbar(image, ax=panels)
    return figure


def layer_by_step(rows: Sequence[Row], name: str, log: bool) -> Any:
    """One line a layer, one column a step; NaN where there is nothing to draw."""
    read: Callable[[float | None], float] = _positive if log else _any
    places = {(row["layer"], row["step"]): read(row.get(name)) for row in rows}
    steps = steps_of(rows)
    return np.array(
        [[places.get((layer, s), math.nan) for s in steps] for layer in layers_of(rows)]
    )


def _norm(tables: Sequence[Any], log: bool) -> Normalize:
    """One scale of colours for all tables; logarithmic where values differ by more than twice."""
    seen = np.concatenate([table[np.isfinite(table)] for table in tables])
    low, high = (seen.min(), seen.max()) if seen.size else (1.0, 1.0)
    if not log:
        return Normalize(0, high)
    return LogNorm(low, high) if high > 2 * low else Normalize(low, high)


def _lines(rows: Sequence[Row], name: str, caption: str, log: bool) -> Figure:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = layers_of(rows)
    for place, layer in enumerate(layers):
        own = [row for row in rows if row["layer"] == layer]
        read: Callable[[float | None], float] = _positive if log else _any
        y = [read(row.get(name)) for row in own]
        _line(axes, [row["step"] for row in own], y, place, layers)
    if log and any(np.isfinite(line.get_ydata()).any() for line in axes.lines):
        axes.set_yscale("log")
    axes.set(xlabel="step", title=caption)
    axes.grid(alpha=0.3)
    if len(layers) <= 30:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _line(axes: Axes, x: list[int], y: list[float], place: int, layers: list[str]) -> None:
    color = mpl.colormaps["viridis"](place / max(1, len(layers) - 1))
    axes.plot(x, y, ".-", lw=1, color=color, label=layers[place])
