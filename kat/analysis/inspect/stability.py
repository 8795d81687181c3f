"""The verdict on a monitored run, and the table of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kat.errors import InputError
from kat.nn.stability import Row

PRESERVED = (0.5, 2.0)
"""A gain in this range counts as preserved."""
TABLE = (
    "layer", "gain, first", "last", "smallest", "largest", "not preserved from step",
    "outside, most", "Q, smallest", "largest", "drift, last", "dead groups", "exploding",
)  # fmt: skip
"""The columns of :func:`table`."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a monitored run, in words.

    Args:
        preserved: True if every gain recorded is within :data:`PRESERVED`, and nothing failed.
        lines: one statement each, the verdict itself first.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import Verdict
        >>> from kat.nn.stability import read_rows
        >>> verdict = Verdict.of(read_rows(Path("runs/digits/stability.csv")))
        >>> print(verdict.lines[2])
        Step 5: preserved in 2 of 2 layers.
    """

    preserved: bool
    lines: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row], failure: str | None = None) -> Verdict:
        """Judge the rows of a run.

        Args:
            rows: in the order of steps, and within a step of layers.
            failure: what stopped the run, if anything did.
        """
        rationals = rational_rows(rows)
        first, last = rationals[0]["step"], rationals[-1]["step"]
        broken = [row for row in rationals if not is_preserved(row["gain"])]
        lines = [] if failure is None else [f"The run was stopped: {failure}"]
        lines.append(_headline(broken))
        for step in dict.fromkeys((first, last)):
            gains = [row["gain"] for row in rationals if row["step"] == step]
            count = sum(map(is_preserved, gains))
            lines.append(f"Step {step}: preserved in {count} of {len(gains)} layers.")
        return cls(not broken and failure is None, lines)


def table(rows: Sequence[Row]) -> tuple[list[list[str]], list[bool]]:
    """Return the extremes of each layer's quantities, and True for the layers that break.

    Args:
        rows: the rows of a run.

    Returns:
        The lines of a table with the columns :data:`TABLE`, and a mark for each.
    """
    lines, bad = [], []
    rationals = rational_rows(rows)
    for layer in layers_of(rationals):
        own = [row for row in rationals if row["layer"] == layer]
        gains = _column(own, "gain")
        broken = [row["step"] for row in own if not is_preserved(row["gain"])]
        line = [layer]
        line += [f"{gain:.3g}" for gain in (gains[0], gains[-1], min(gains), max(gains))]
        line.append(f"{broken[0]}" if broken else "")
        line.append(f"{max(_column(own, 'outside')):.2%}")
        line.append(f"{min(_column(own, 'q_min')):.3g}")
        line.append(f"{max(_column(own, 'q_max')):.3g}")
        line.append(f"{own[-1]['drift']:.3g}")
        line += [f"{max(_column(own, name)):.0f}" for name in ("dead_groups", "exploding_groups")]
        lines.append(line)
        bad.append(bool(broken))
    return lines, bad


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def rational_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of rational layers; rows of blocks have no coefficients.

    Raises:
        InputError: there is none.
    """
    rationals = [row for row in rows if "drift" in row and "gain" in row]
    if not rationals:
        raise InputError("the record of the run is empty: no step was monitored")
    return rationals


def is_preserved(gain: float) -> bool:
    """Return True if a layer with this gain preserves the variance."""
    return PRESERVED[0] <= gain <= PRESERVED[1]


def layers_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of the layers, in order."""
    return list(dict.fromkeys(row["layer"] for row in rows))


def _headline(broken: Sequence[Row]) -> str:
    low, high = PRESERVED
    bounds = f"preserved: E[y^2] / E[x^2] from {low:g} to {high:g}"
    if not broken:
        return f"Variance preserved in every layer at every recorded step ({bounds})."
    first = broken[0]
    return (
        f"Variance not preserved: it breaks first at step {first['step']} in {first['layer']}, gain"
        f" {first['gain']:.3g} ({bounds})."
    )
