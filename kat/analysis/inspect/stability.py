"""The rows of a monitored run, and the verdict on them in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kat.errors import InputError
from kat.nn.monitoring.stability import DEAD_VARIANCE, EXPLODING_MOMENT, Row

PRESERVED = (0.5, 2.0)
"""A gain in this range counts as preserved."""
OUTSIDE = 0.05
"""A layer with a larger share of inputs outside the fit interval is named."""
_MOST_STEPS = 300
"""More steps would make a page of many megabytes, and could not be told apart."""


@dataclass(frozen=True)
class Verdict:
    """What a monitored run shows, in words.

    Args:
        preserved: whether every gain recorded is within :data:`PRESERVED`, and nothing failed.
        lines: one statement each, the verdict itself first.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import Verdict
        >>> from kat.nn.monitoring.stability import read_rows
        >>> verdict = Verdict.of(read_rows(Path("runs/digits/stability.csv")))
        >>> print(verdict.lines[2])
        Step 5: preserved in 2 of 2 layers, ...
    """

    preserved: bool
    lines: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], failure: str | None = None) -> Verdict:
        """Judges the rows of a run.

        Args:
            rows: in the order of steps, and within a step of layers.
            failure: what stopped the run, if anything did.
        """
        rationals = rational_rows(rows)
        broken = [row for row in rationals if not is_preserved(row["gain"])]
        lines = [_headline(broken, start=rationals[0]["step"])]
        steps = [rationals[0]["step"], rationals[-1]["step"]]
        lines += [_gains_at(step, rationals) for step in dict.fromkeys(steps)]
        lines += [_groups("dead", rationals), _groups("exploding", rationals)]
        lines += [_outside(rationals), _denominator(rationals)]
        if failure is not None:
            lines.insert(0, f"The run was stopped: {failure}")
        return cls(not broken and failure is None, lines)


def rational_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of rational layers; those of blocks have no coefficients.

    Raises:
        InputError: there is none.
    """
    rationals = [row for row in rows if "drift" in row and "gain" in row]
    if not rationals:
        raise InputError("the record of the run is empty: no step was monitored")
    return rationals


def is_preserved(gain: float) -> bool:
    """Whether a layer with this gain preserves the variance."""
    return PRESERVED[0] <= gain <= PRESERVED[1]


def layers_of(rows: Sequence[Row]) -> list[str]:
    """The names of the layers, in order."""
    return list(dict.fromkeys(row["layer"] for row in rows))


def steps_of(rows: Sequence[Row]) -> list[int]:
    """The steps, in order."""
    return list(dict.fromkeys(row["step"] for row in rows))


def thinned(rows: Sequence[Row]) -> list[Row]:
    """The rows of at most about 300 evenly spaced steps, the last among them."""
    steps = steps_of(rows)
    chosen = {*steps[:: -(-len(steps) // _MOST_STEPS)], steps[-1]}
    return [row for row in rows if row["step"] in chosen]


def layer_by_step(rows: Sequence[Row], name: str, log: bool) -> Any:
    """A quantity as an array (layers, steps); NaN where there is nothing to draw.

    Args:
        rows: the rows of a run.
        name: the name of the quantity.
        log: whether the axis is logarithmic, so that only positive values can be drawn.
    """
    places = {(row["layer"], row["step"]): drawable(row.get(name), log) for row in rows}
    steps = steps_of(rows)
    return np.array(
        [[places.get((layer, step), math.nan) for step in steps] for layer in layers_of(rows)]
    )


def drawable(value: float | None, log: bool) -> float:
    """The value if an axis, which may be logarithmic, can show it, else NaN."""
    if value is None or (log and not 0 < value < math.inf):
        return math.nan
    return value


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
    good = sum(is_preserved(row["gain"]) for row in at)
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
    """The rows whose values of these names are finite, and a remark on the others."""
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
