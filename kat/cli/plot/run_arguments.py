"""The arguments of the figures that compare runs."""

from __future__ import annotations

from kat.cli.parsing import Parser


def add_run_arguments(parser: Parser) -> None:
    """Adds the arguments of :func:`kat.analysis.runs.find_runs`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the folder of a run, or the .csv of 'kat ablate', whose cells are one line each",
    )
    parser.add_argument(
        "--group", action="store_true", help="take folders that differ in the seed alone together"
    )
    parser.add_argument("--labels", nargs="+", type=str, help="names in place of those found")
