"""The page of a verification: the verdict, tables, figures of errors, failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kat.analysis.figures.verification import DRAWN, draw_errors, errors_by_range, range_of
from kat.analysis.reports.page import Report
from kat.analysis.verify.compare import RULE, Result
from kat.analysis.verify.output import STATES, input_rows, largest_errors, verdict
from kat.analysis.verify.run import Verification

_LISTED = 300
"""Failures that are listed."""
_TABLED = (1e3, 1e6, 1e8, 1e20, 1e38)
"""|x| in the table of errors."""


def write_verification_report(found: Verification, path: Path) -> None:
    """Writes the page, with a figure for each dtype.

    Args:
        found: by :func:`kat.analysis.verify.run.verify`.
        path: the path of the file.
    """
    report = Report("Verification of the rational function")
    versions = "; ".join(f"{name} {value}" for name, value in found.environment.items())
    report.text(f"{verdict(found)}. {versions}.")
    report.text(RULE)
    report.heading("Largest error over tolerance")
    columns, rows = largest_errors(found.results)
    report.table(columns, [cells for cells, _ in rows], bad=[bad for _, bad in rows])
    for name, reason in found.absent.items():
        report.text(f"Unavailable on this machine: {name}. {reason}")
    report.heading("Checks")
    report.table(
        ("check", "outcome", "detail"),
        [(check.name, STATES[check.passed], check.detail) for check in found.checks],
        bad=[check.passed is False for check in found.checks],
    )
    if found.inputs:
        report.heading("Inputs of the model's rationals")
        report.table(("layer", "smallest", "largest"), input_rows(found))
    _add_ranges(report, found)
    failures = found.failures()
    if failures:
        report.heading("Failures")
        shown = failures[:_LISTED]
        report.text(f"{len(failures)}, of which {len(shown)} are listed, the worst first.")
        report.table(("what failed",), [(line,) for line in shown], bad=[True] * len(shown))
    report.write(path)


def _add_ranges(report: Report, found: Verification) -> None:
    """Adds a table and a figure of errors against |x| for each dtype."""
    by_dtype: dict[str, list[Result]] = defaultdict(list)
    for result in found.results:
        if result.quantity in DRAWN and range_of(result.ranges[0]):
            by_dtype[result.dtype].append(result)
    if not by_dtype:
        return
    report.heading("Errors against the size of x")
    report.text(
        "The largest error over all forms, degrees and coefficients, relative to the scale of the"
        " value: 1e-7 is about one rounding of float32. Where an exact value exceeds the dtype's"
        " maximum, infinity is correct."
    )
    for dtype, results in by_dtype.items():
        report.text(f"{dtype}, in the ranges that begin at |x| =")
        columns = ("backend", "quantity", *(f"{size:.0e}" for size in _TABLED))
        report.table(columns, _error_rows(results))
        caption = f"{dtype}: largest error against |x|; at the top, larger, infinite or NaN"
        report.figure(draw_errors(results), caption)


def _error_rows(results: Sequence[Result]) -> list[list[str]]:
    rows = []
    for (backend, quantity), errors in errors_by_range(results).items():
        nearest = [
            next((error for (low, _), error in errors.items() if abs(low / x - 1) < 0.01), None)
            for x in _TABLED
        ]
        rows.append([backend, quantity, *("-" if e is None else f"{e:.1e}" for e in nearest)])
    return rows
