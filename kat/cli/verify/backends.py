"""``kat verify backends``: compare every backend on this machine with exact values.

Compares the rational function, its gradients and its second derivatives over forms, degrees,
dtypes, coefficients, |x| from 0 to the largest number of each dtype, infinity and NaN, and output
gradients of all sizes; then the compiled operator with the plain one. Exit code: 0 if everything is
exact to rounding, 1 if anything is not.

examples:
  kat verify backends --out verify.html       everything, about a minute
  kat verify backends --quick                 a small part, in seconds
  kat verify backends --largest 1e3           the inputs that networks see
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kat.analysis.verify.cases import QUICK, Grid, check_grid
from kat.cli.options.parser import Parser
from kat.cli.verify.common import add_verification, run_verification


def main(arguments: list[str]) -> int:
    """Verifies, prints a table; 1 if anything failed."""
    options = make_parser().parse_args(arguments)
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name in ("forms", "degrees", "dtypes", "largest", "seed")
        if (value := getattr(options, name)) is not None
    }
    grid = replace(QUICK if options.quick else Grid(), **chosen)
    check_grid(grid)
    return run_verification(grid, options, quick=options.quick)


def make_parser() -> Parser:
    """The parser of ``kat verify backends``."""
    parser = Parser(__doc__)
    add = parser.add
    add("--quick", action="store_true", help="verify a small part, in seconds")
    add("--forms", type=list[str], metavar="LIST", help="forms, of A and B")
    add("--degrees", type=list[tuple[int, int]], metavar="LIST", help="e.g. '[[5, 4], [3, 2]]'")
    add("--largest", type=float, metavar="X", help="largest |x| (default: that of each dtype)")
    parser.add_seed("x and of random coefficients")
    add_verification(parser, "over a small part")
    return parser
