"""``kat plot curves``: learning curves of one or several runs.

Draws loss and accuracy against epochs, one color a run. Of runs that belong together (the cells of
a table, or run directories with --group) it draws the mean over the epochs that all of them have,
in a band from the lowest to the highest. A circle marks the epoch that a single run keeps.

examples:
  kat plot curves runs/kat runs/vit --labels KAT ViT
  kat plot curves runs/kat-seed* runs/vit-seed* --group --metric top1
  kat plot curves runs/ablation/models.csv --out curves.svg
"""

from __future__ import annotations

from pathlib import Path

from kat.analysis.figures.learning_curves import CURVES, plot_learning_curves, usual_curves
from kat.analysis.runs import History, find_runs
from kat.cli.options.parser import Parser
from kat.errors import InputError
from kat.text import say, warn
from kat.training import read_history


def main(arguments: list[str]) -> None:
    """Reads the histories, draws."""
    options = make_parser().parse_args(arguments)
    lines: dict[str, list[History]] = {}
    left_out = []
    for row in find_runs(options.runs, group=options.group, labels=options.labels):
        history = read_history(row["folder"]) if row["status"] == "done" else []
        if history:
            lines.setdefault(row["cell"], []).append(history)
        elif row["status"] == "done":
            left_out.append(row["folder"])
    if not lines:
        raise InputError(
            f"no run of {', '.join(map(str, options.runs))} is done and has a history.csv with an"
            " epoch in it"
        )
    for folder in left_out:
        warn(f"note: {folder} is left out: it has no history.csv with an epoch in it")
    usual = usual_curves(next(iter(lines.values()))[0][-1])
    plot_learning_curves(lines, options.out, options.metric or usual)
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot curves``."""
    parser = Parser(__doc__, "RUN...")
    add_run_arguments(parser)
    what = f"a panel each, of {', '.join(CURVES)} (default: the loss, and the task's first metric)"
    parser.add("--metric", nargs="+", choices=list(CURVES), metavar="NAME", help=what)
    parser.add_picture("curves.png")
    return parser


def add_run_arguments(parser: Parser) -> None:
    """Adds the arguments of :func:`kat.analysis.runs.find_runs`."""
    what = "a run directory, or the .csv of 'kat ablate', whose cells are a line each"
    parser.add("runs", nargs="+", type=Path, metavar="RUN", help=what)
    what = "put runs together that differ in the seed only"
    parser.add("--group", action="store_true", help=what)
    parser.add("--labels", nargs="+", metavar="NAME", help="names in place of those found")
