"""``kat plot forest``: the differences of all cells of several grids, one line each.

Draws, for each cell of the tables of 'kat ablate', the paired difference from the first cell of its
grid, in points of the metric that cells are compared by (that of the test in grids with 'test:
true', else that of the validation), with its 95 % interval over the seeds. Intervals are not
corrected for the number of comparisons.

examples:
  kat plot forest runs/ablation/models.csv runs/ablation/groups.csv
  kat plot forest runs/ablation/components.csv --out components.png
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kat.analysis.ablation import (
    CellResult,
    Row,
    compared,
    main_metric,
    read_runs,
    summarize,
    with_split,
)
from kat.analysis.figures.forest import plot_forest
from kat.cli.options.parser import Parser
from kat.errors import InputError
from kat.files import short_names
from kat.text import say
from kat.training.tasks.task import Metric


def main(arguments: list[str]) -> None:
    """Reads the tables, draws."""
    options = make_parser().parse_args(arguments)
    paths: list[Path] = list(dict.fromkeys(options.tables))
    names = [name.removesuffix(".csv") for name in short_names(paths)]
    rows = {name: read_runs(path) for name, path in zip(names, paths, strict=True)}
    metric = _common_metric(rows)
    grids = {name: summarize(own, measure=metric.name) for name, own in rows.items()}
    if not any(cell.difference for results in grids.values() for cell in results):
        raise InputError("no cell can be compared with the first of its grid")
    plot_forest(grids, metric, options.out)
    say(*_left_out(grids), options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot forest``."""
    parser = Parser(__doc__, "GRID.csv...")
    parser.add(
        "tables", nargs="+", type=Path, metavar="GRID.csv", help="a .csv table of 'kat ablate'"
    )
    parser.add_picture("forest.svg")
    return parser


def _common_metric(grids: Mapping[str, Sequence[Row]]) -> Metric:
    """The metric that the cells of all grids are compared by.

    Raises:
        InputError: there are several.
    """
    found = {name: compared(main_metric(rows), rows) for name, rows in grids.items()}
    if len(set(found.values())) > 1:
        each = ", ".join(f"{name!r} by {with_split(metric)}" for name, metric in found.items())
        raise InputError(f"grids in one figure must be compared by one metric: {each}")
    return next(iter(found.values()))


def _left_out(grids: Mapping[str, Sequence[CellResult]]) -> list[str]:
    return [
        f"left out, no seed in common with {results[0].name!r}: {name}: {cell.name}"
        for name, results in grids.items()
        for cell in results[1:]
        if cell.difference is None
    ]
