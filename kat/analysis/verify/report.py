"""A verification as a table on the terminal, as JSON, and as one HTML page."""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kat.analysis.reports.page import Report
from kat.analysis.verify.backends import Check
from kat.analysis.verify.compare import QUANTITIES, RULE, Result
from kat.analysis.verify.run import Verification
from kat.files import write_text
from kat.tables import aligned, print_table

LISTED = 10
"""Failures that the terminal lists; JSON has them all."""
_LISTED_IN_REPORT = 300

TABLED = (1e3, 1e6, 1e8, 1e20, 1e38)
"""|x| of the report's table of errors."""
_DRAWN = ("y", "dx", "da", "db")
_CEILING = 1e3
"""Errors above it, infinite ones and NaN are drawn here."""


def print_verification(found: Verification) -> None:
    """The largest errors by backend, dtype and quantity, the checks, and the first failures."""
    columns, rows = _summary(found.results)
    sys.stdout.write("largest error / tolerance (at most 1 passes)\n")
    print_table(columns, [cells for cells, _ in rows], bad=[bad for _, bad in rows])
    failures = found.failures()
    lines = [
        *(("inputs", f"{name}: from {low} to {high}") for name, low, high in _input_rows(found)),
        *(("unavailable", f"{name}: {reason}") for name, reason in found.absent.items()),
        *((_WORDS[check.passed], _line(check)) for check in found.checks),
        *(("FAILED", line) for line in failures[:LISTED]),
    ]
    sys.stdout.write(f"{aligned(lines)}\n")
    if len(failures) > LISTED:
        sys.stdout.write(f"and {len(failures) - LISTED} more failures, which --json lists\n")
    sys.stdout.write(f"{verdict(found)}\n")


def _line(check: Check) -> str:
    return f"{check.name}: {check.detail}" if check.detail else check.name


def verdict(found: Verification) -> str:
    """One line: how many comparisons and checks there were, and how many failed."""
    compared = len(found.results) + sum(check.passed is not None for check in found.checks)
    failed = len(found.failures())
    answer = f"{failed} of {compared} comparisons FAILED" if failed else f"all {compared} passed"
    return f"{answer} in {found.seconds:.0f} s"


_WORDS = {True: "passed", False: "FAILED", None: "not made"}


def to_json(found: Verification) -> str:
    """A :class:`.run.Verification` as JSON; infinities and NaN are strings.

    A result's ``ranges`` is the index of its list of ranges under ``ranges``.
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
        "results": [_row(result, ranges.index(result.ranges)) for result in found.results],
    }
    return json.dumps(content, allow_nan=False) + "\n"


def _row(result: Result, ranges: int) -> dict[str, object]:
    row = {**asdict(result), "ranges": ranges}
    row["worst"] = {name: _plain(value) for name, value in row["worst"].items()}
    for name in ("ratios", "errors"):
        row[name] = [_plain(float(f"{value:.3g}")) for value in row[name]]
    return {**row, "passed": result.passed}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_report(found: Verification, path: Path) -> None:
    """The HTML page: verdict, tables, a figure for each dtype, and the failures."""
    report = Report("Verification of the rational function")
    report.text(f"{verdict(found)}. {'; '.join(f'{k} {v}' for k, v in found.environment.items())}.")
    report.text(RULE)
    report.heading("Largest error over tolerance")
    columns, rows = _summary(found.results)
    report.table(columns, [cells for cells, _ in rows], bad=[bad for _, bad in rows])
    for name, reason in found.absent.items():
        report.text(f"Not on this machine: {name}. {reason}")
    report.heading("Checks")
    report.table(
        ("check", "answer", "detail"),
        [(check.name, _WORDS[check.passed], check.detail) for check in found.checks],
        bad=[check.passed is False for check in found.checks],
    )
    if found.inputs:
        report.heading("Inputs of the model's rationals")
        report.table(("layer", "smallest", "largest"), _input_rows(found))
    _add_ranges(report, found)
    failures = found.failures()
    if failures:
        report.heading("Failures")
        shown = failures[:_LISTED_IN_REPORT]
        report.text(f"{len(failures)}, of which {len(shown)} are listed, the worst first.")
        report.table(("what failed",), [(line,) for line in shown], bad=[True] * len(shown))
    report.write(path)


def _input_rows(found: Verification) -> list[tuple[str, str, str]]:
    return [(layer, f"{low:.4g}", f"{high:.4g}") for layer, (low, high) in found.inputs.items()]


def _add_ranges(report: Report, found: Verification) -> None:
    """Errors against |x|: a table for float32, and a figure for each dtype."""
    by_dtype: dict[str, list[Result]] = defaultdict(list)
    for result in found.results:
        if result.quantity in _DRAWN and _interval(result.ranges[0]):
            by_dtype[result.dtype].append(result)
    if not by_dtype:
        return
    report.heading("Errors against the size of x")
    report.text(
        "The largest error over all forms, degrees and coefficients, relative to the scale of the"
        " value, so that 1e-7 is about one rounding of float32. Where an exact value is beyond the"
        " dtype's maximum, infinity is right."
    )
    for dtype, results in by_dtype.items():
        rows = _error_rows(results)
        report.text(f"{dtype}, in the ranges that begin at |x| =")
        columns = ("backend", "quantity", *(f"{size:.0e}" for size in TABLED))
        report.table(columns, rows)
        caption = f"{dtype}: largest error against |x|; at the top, larger, infinite or NaN"
        report.figure(_figure(results), caption)


def _summary(results: Iterable[Result]) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """Column names, and for each backend and dtype its cells and whether one of them fails."""
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


def _interval(name: str) -> tuple[float, float] | None:
    """The ends of a range of |x| by its name; None for the special ones and for a model's."""
    low, _, high = name.partition("..")
    return (float(low), float(high)) if high and float(low) > 0 else None


def _error_rows(results: Sequence[Result]) -> list[list[str]]:
    rows = []
    for (backend, quantity), errors in _by_range(results).items():
        found = {low: error for (low, _), error in errors.items()}
        nearest = [
            next((e for low, e in found.items() if abs(low / x - 1) < 0.01), None) for x in TABLED
        ]
        rows.append([backend, quantity, *("-" if e is None else f"{e:.1e}" for e in nearest)])
    return rows


def _by_range(
    results: Iterable[Result],
) -> dict[tuple[str, str], dict[tuple[float, float], float]]:
    """For each backend and quantity, the largest error in each range of |x|, in order of |x|."""
    largest: dict[tuple[str, str], dict[tuple[float, float], float]] = defaultdict(dict)
    for result in results:
        of_range = largest[result.backend, result.quantity]
        for name, error in zip(result.ranges, result.errors, strict=True):
            interval = _interval(name)
            if interval and not math.isnan(error):
                of_range[interval] = max(of_range.get(interval, 0.0), error)
    return {key: dict(sorted(errors.items())) for key, errors in largest.items()}


def _figure(results: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = dict(zip(_DRAWN, figure.subplots(2, 2, sharex=True, sharey=True).flat, strict=True))
    by_range = _by_range(results)
    backends = list(dict.fromkeys(backend for backend, _ in by_range))
    floor = 1e-10 if results[0].dtype != "float64" else 1e-19
    for (backend, quantity), errors in by_range.items():
        clipped = {key: min(max(error, floor), _CEILING) for key, error in errors.items()}
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


def _draw(axes: Axes, errors: dict[tuple[float, float], float], backend: str, number: int) -> None:
    """One line; styles differ, since lines of backends that agree lie on each other."""
    x = [math.log10(low) / 2 + math.log10(high) / 2 for low, high in errors]
    style = ("-", "--", ":", "-.")[number % 4]
    axes.plot(
        x, [*errors.values()], style, color=f"C{number}", lw=1.5, marker=".", ms=3, label=backend
    )


def write_json(found: Verification, path: Path) -> None:
    """Writes :func:`to_json`, whole or not at all."""
    write_text(path, to_json(found))
