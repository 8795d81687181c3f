"""``kat plot evolution``: how the rationals of a run changed during training.

Draws them from the coefficients in coefficients.csv: as small multiples, one row per layer and one
column per step, or as an animation (.gif, .mp4).

examples:
  kat plot evolution runs/digits --out evolution.gif
  kat plot evolution runs/digits --out evolution.svg --width 4
"""

from __future__ import annotations

from pathlib import Path

from kat.analysis import plot_evolution
from kat.analysis.figures.activations import ANIMATED
from kat.cli.options.parser import Parser
from kat.nn import read_coefficient_history
from kat.settings import Positive
from kat.text import say
from kat.training.run_directory import COEFFICIENTS


def main(arguments: list[str]) -> None:
    """Reads the record of the run, draws."""
    options = make_parser().parse_args(arguments)
    history = read_coefficient_history(options.run / COEFFICIENTS)
    plot_evolution(history, options.out, width=options.width)
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot evolution``."""
    parser = Parser(__doc__, "RUN")
    parser.add("run", type=Path, metavar="RUN", help="a run directory")
    parser.add("--width", type=Positive, default=3.0, help="draw x from -WIDTH to WIDTH")
    parser.add_picture("evolution.png", ANIMATED)
    return parser
