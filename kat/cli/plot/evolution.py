"""``kat plot evolution``: how the rationals of a run became what they are."""

from __future__ import annotations

import sys
from pathlib import Path

from kat.analysis import plot_evolution
from kat.analysis.figures.activations import ANIMATED
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.files import PICTURES, check_target
from kat.nn import read_coefficient_history
from kat.training.run_directory import COEFFICIENTS

_DESCRIPTION = """\
Draws the rationals of a run over its training, from the coefficients that 'kat train' has recorded
in coefficients.csv: as small multiples, a row a layer and a column a step, or as an animation.

examples:
  kat plot evolution runs/digits --out evolution.gif
  kat plot evolution runs/digits --out evolution.svg --width 4"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, reads the record of the run, draws."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    check_target(out, (*PICTURES, *ANIMATED))
    if not 0 < parsed.width < float("inf"):
        raise InputError(f"--width must be a number above 0, got {parsed.width}")
    history = read_coefficient_history(Path(parsed.run) / COEFFICIENTS)
    plot_evolution(history, out, width=parsed.width)
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat plot evolution``."""
    parser = Parser(prog="kat plot evolution", description=_DESCRIPTION, formatter_class=Formatter)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--width", type=float, default=3.0, help="draw x from -WIDTH to WIDTH")
    parser.add_argument(
        "--out", default="evolution.png", help="where to draw; .png, .svg, .pdf, .gif or .mp4"
    )
    return parser
