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

from pathlib import Path

from kat.analysis.ablation import compared, main_metric, summarize, with_split
from kat.analysis.figures.base import save_figure
from kat.analysis.figures.grids import draw_forest
from kat.analysis.runs import read_runs
from kat.cli.options.parser import Parser
from kat.errors import InputError
from kat.files import short_names
from kat.text import say


def main(arguments: list[str]) -> None:
    """Reads the tables, draws."""
    options = make_parser().parse_args(arguments)
    paths: list[Path] = list(dict.fromkeys(options.tables))
    names = [name.removesuffix(".csv") for name in short_names(paths)]
    rows = {name: read_runs(path) for name, path in zip(names, paths, strict=True)}
    metrics = {name: compared(main_metric(own), own) for name, own in rows.items()}
    if len(set(metrics.values())) > 1:
        each = ", ".join(f"{name!r} by {with_split(metric)}" for name, metric in metrics.items())
        raise InputError(f"grids in one figure must be compared by one metric: {each}")
    metric = next(iter(metrics.values()))
    grids = {name: summarize(own, measure=metric.name) for name, own in rows.items()}
    if not any(cell.difference for results in grids.values() for cell in results):
        raise InputError("no cell can be compared with the first of its grid")
    save_figure(draw_forest(grids, metric), options.out)
    for name, results in grids.items():
        for cell in results[1:]:
            if cell.difference is None:
                reference = results[0].name
                say(f"left out, no seed in common with {reference!r}: {name}: {cell.name}")
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot forest``."""
    parser = Parser(__doc__, "GRID.csv...")
    what = "a .csv table of 'kat ablate'"
    parser.add("tables", nargs="+", type=Path, metavar="GRID.csv", help=what)
    parser.add_picture("forest.svg")
    return parser
