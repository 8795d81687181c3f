"""``kat flops layers``: parameters and FLOPs of an MLP, a GR-KAN and a KAN layer, for one token.

examples:
  kat flops layers 192 768
  kat flops layers 192 768 --degree 3 2 --groups 4 --grid 8
"""

from __future__ import annotations

from kat.analysis.cost.tables import compare_layers
from kat.cli.flops.models import print_rows, write_rows
from kat.cli.options.parser import Parser
from kat.settings import Count


def main(arguments: list[str]) -> None:
    """Counts, prints a table."""
    options = make_parser().parse_args(arguments)
    kept = {name: getattr(options, name) for name in ("groups", "grid", "order")}
    rows = compare_layers(options.d_in, options.d_out, degree=tuple(options.degree), **kept)
    print_rows("for one token", rows)
    write_rows(options, rows, rows)


def make_parser() -> Parser:
    """The parser of ``kat flops layers``."""
    parser = Parser(__doc__, "D_IN D_OUT")
    add = parser.add
    add("d_in", type=Count, metavar="D_IN", help="input features")
    add("d_out", type=Count, metavar="D_OUT", help="output features")
    what = "degrees of the rationals of the GR-KAN layer"
    add("--degree", nargs=2, type=int, default=[5, 4], metavar=("M", "N"), help=what)
    add("--groups", type=Count, default=8, help="groups of the GR-KAN layer")
    add("--grid", type=Count, default=5, help="grid intervals of the splines of the KAN layer")
    add("--order", type=Count, default=3, help="degree of the splines of the KAN layer")
    parser.add_csv("the table")
    parser.add_json("the table")
    return parser
