"""The arguments of the figures that compare runs."""

from __future__ import annotations

from pathlib import Path

from kat.cli.options.parser import Parser


def add_run_arguments(parser: Parser) -> None:
    """Adds the arguments of :func:`kat.analysis.runs.find_runs`."""
    parser.add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run directory, or the .csv of 'kat ablate', whose cells are a line each",
    )
    parser.add(
        "--group", action="store_true", help="put runs together that differ in the seed only"
    )
    parser.add("--labels", nargs="+", metavar="NAME", help="names in place of those found")
