"""``kat plot curves``: loss and accuracy of several runs over their epochs."""

from __future__ import annotations

import sys
from pathlib import Path

from kat.analysis.figures.learning_curves import CURVES, plot_learning_curves
from kat.analysis.learning_curves import History, usual_columns
from kat.analysis.runs import find_runs
from kat.cli.parsing import Formatter, Parser, run_command
from kat.cli.plot.run_arguments import add_run_arguments
from kat.errors import InputError, unknown
from kat.files import PICTURES, check_target
from kat.training import read_history

_DESCRIPTION = """\
Draws loss and accuracy against epochs, one colour a run. Of runs that belong together,
the cells of a table or folders under --group, it draws the mean over the epochs that all of them
have, in a band from the lowest to the highest of them.

examples:
  kat plot curves runs/kat runs/vit --labels KAT ViT
  kat plot curves runs/kat-seed* runs/vit-seed* --group --metric top1
  kat plot curves runs/ablation/models.csv --out curves.svg"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, reads the histories, draws."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    check_target(out, PICTURES)
    for metric in parsed.metric or ():
        if metric not in CURVES:
            raise unknown("metric", metric, CURVES)
    lines: dict[str, list[History]] = {}
    for row in find_runs(list(map(Path, parsed.runs)), group=parsed.group, labels=parsed.labels):
        if row["status"] == "done":
            lines.setdefault(row["cell"], []).append(_history(row["folder"]))
    if not lines:
        raise InputError(f"no run of {', '.join(parsed.runs)} is done")
    plot_learning_curves(lines, out, parsed.metric or _usual(lines))
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat plot curves``."""
    parser = Parser(prog="kat plot curves", description=_DESCRIPTION, formatter_class=Formatter)
    add_run_arguments(parser)
    parser.add_argument(
        "--metric",
        nargs="+",
        type=str,
        help=f"a panel each, of {', '.join(CURVES)}; loss and the first score of the task unless"
        " given",
    )
    parser.add_argument("--out", default="curves.png", help="where to draw; .png, .svg or .pdf")
    return parser


def _usual(lines: dict[str, list[History]]) -> list[str]:
    """The loss, that of training where none is validated, and the task's first score."""
    loss, score = usual_columns(next(iter(lines.values()))[0][-1])
    both = "loss" if loss == "val_loss" else loss
    return [both] if score is None else [both, score]


def _history(folder: Path) -> History:
    rows = read_history(folder)
    if not rows:
        raise InputError(f"{folder} has no history: there is no history.csv with an epoch in it")
    return rows
