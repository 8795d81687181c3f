"""``kat flops layers``: parameters and FLOPs of an MLP, a GR-KAN and a KAN layer, for one token.

examples:
  kat flops layers 192 768
  kat flops layers 192 768 --degree 3 2 --groups 4 --grid 8
"""

from __future__ import annotations

from kat.analysis.cost.layer_comparison import compare_layers
from kat.analysis.cost.tables import comparison_row, print_comparison, write_csv, write_json
from kat.cli.options.parser import Parser


def main(arguments: list[str]) -> None:
    """Counts, prints a table."""
    options = make_parser().parse_args(arguments)
    compared = compare_layers(
        options.d_in,
        options.d_out,
        degree=tuple(options.degree),
        groups=options.groups,
        grid=options.grid,
        order=options.order,
    )
    print_comparison(compared)
    rows = [comparison_row(layer) for layer in compared]
    if options.csv:
        write_csv(rows, options.csv)
    if options.json:
        write_json(rows, options.json)


def make_parser() -> Parser:
    """The parser of ``kat flops layers``."""
    parser = Parser(__doc__, "D_IN D_OUT")
    add = parser.add
    add("d_in", type=int, metavar="D_IN", help="input features")
    add("d_out", type=int, metavar="D_OUT", help="output features")
    add(
        "--degree",
        nargs=2,
        type=int,
        default=[5, 4],
        metavar=("M", "N"),
        help="degrees of the rationals of the GR-KAN layer",
    )
    add("--groups", type=int, default=8, help="groups of the GR-KAN layer")
    add("--grid", type=int, default=5, help="grid intervals of the splines of the KAN layer")
    add("--order", type=int, default=3, help="degree of the splines of the KAN layer")
    parser.add_csv("the table")
    parser.add_json("the table")
    return parser
