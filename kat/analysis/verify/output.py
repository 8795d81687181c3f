"""A verification as a table on the terminal, and as JSON."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from kat.analysis.verify.backends import Check
from kat.analysis.verify.compare import QUANTITIES, RULE, Result
from kat.analysis.verify.run import Verification
from kat.files import write_text
from kat.tables import aligned, print_table
from kat.text import say

_LISTED = 10
"""Failures that are printed; JSON has them all."""
STATES = {True: "passed", False: "FAILED", None: "not made"}
"""Words for the outcome of a check."""


def print_verification(found: Verification) -> None:
    """Prints the largest errors by backend, dtype and quantity, the checks, the first failures."""
    say("largest error / tolerance (at most 1 passes)")
    columns, rows = largest_errors(found.results)
    print_table(columns, [cells for cells, _ in rows], bad=[bad for _, bad in rows])
    failures = found.failures()
    lines = [
        *(("inputs", f"{name}: from {low} to {high}") for name, low, high in input_rows(found)),
        *(("unavailable", f"{name}: {reason}") for name, reason in found.absent.items()),
        *((STATES[check.passed], _line(check)) for check in found.checks),
        *(("FAILED", line) for line in failures[:_LISTED]),
    ]
    say(*aligned(lines))
    if len(failures) > _LISTED:
        say(f"and {len(failures) - _LISTED} more failures, which --json lists")
    say(verdict(found))


def _line(check: Check) -> str:
    return f"{check.name}: {check.detail}" if check.detail else check.name


def verdict(found: Verification) -> str:
    """One line: the number of comparisons and checks, and how many failed."""
    compared = len(found.results) + sum(check.passed is not None for check in found.checks)
    failed = len(found.failures())
    answer = f"{failed} of {compared} comparisons FAILED" if failed else f"all {compared} passed"
    return f"{answer} in {found.seconds:.0f} s"


def largest_errors(
    results: Iterable[Result],
) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """The column names, and for each backend and dtype its cells and whether one fails."""
    largest: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for result in results:
        row = largest[result.backend, result.dtype]
        row[result.quantity] = max(row.get(result.quantity, 0.0), result.worst.ratio)
    rows = [
        (
            [*key, *(_ratio(row.get(quantity)) for quantity in QUANTITIES)],
            any(ratio > 1 for ratio in row.values()),
        )
        for key, row in largest.items()
    ]
    return ["backend", "dtype", *QUANTITIES[:-1], "second"], rows


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.0e}"


def input_rows(found: Verification) -> list[tuple[str, str, str]]:
    """The name, the smallest and the largest input of each rational layer of a model."""
    return [(layer, f"{low:.4g}", f"{high:.4g}") for layer, (low, high) in found.inputs.items()]


def write_json(found: Verification, path: Path) -> None:
    """Writes a verification as JSON, whole or not at all.

    Infinities and NaN are strings. The ``ranges`` of a result are an index into the list
    ``ranges``.
    """
    ranges = list(dict.fromkeys(result.ranges for result in found.results))
    content = {
        "passed": found.passed,
        "seconds": round(found.seconds, 1),
        "rule": RULE,
        "environment": found.environment,
        "absent": found.absent,
        "inputs": found.inputs,
        "checks": [asdict(check) for check in found.checks],
        "failures": found.failures(),
        "ranges": ranges,
        "results": [_result(result, ranges.index(result.ranges)) for result in found.results],
    }
    write_text(path, json.dumps(content, allow_nan=False) + "\n")


def _result(result: Result, ranges: int) -> dict[str, object]:
    row = {**asdict(result), "ranges": ranges}
    row["worst"] = {name: _plain(value) for name, value in row["worst"].items()}
    for name in ("ratios", "errors"):
        row[name] = [_plain(float(f"{value:.3g}")) for value in row[name]]
    return {**row, "passed": result.passed}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
