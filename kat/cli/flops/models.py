"""``kat flops models``: parameters, FLOPs and activation memory of models, for one image.

Counts parameters, multiply-adds, FLOPs, and the bytes that autograd keeps for the backward pass;
beside them the FLOPs by formula and the paper's count, whose conventions differ (docs/costs.md).
Without a model: the models of the paper's table, beside the authors' figures.

examples:
  kat flops models                                       the paper's table
  kat flops models kat_tiny_patch16_224 vit_tiny_patch16_224 --image-size 384
  kat flops models kat_micro --args '{num_groups: 4, degree: [3, 2]}' --layers
  kat flops models runs/digits --layers --csv layers.csv       layer by layer
"""

from __future__ import annotations

from typing import Any

from kat.analysis.cost.model_cost import PUBLISHED, model_cost
from kat.analysis.cost.tables import print_costs, write_csv, write_json
from kat.cli.options.parser import MODEL, Parser, tracked
from kat.settings import Count


def main(arguments: list[str]) -> None:
    """Counts, prints tables."""
    options = make_parser().parse_args(arguments)
    names = tracked(options.models or list(PUBLISHED), "counting", options)
    costs = [model_cost(name, options.args, options.image_size) for name in names]
    print_costs(costs, layers=options.layers)
    if options.csv:
        layers = [row for cost in costs for row in cost.layer_rows()]
        write_csv(layers if options.layers else [cost.row() for cost in costs], options.csv)
    if options.json:
        write_json([cost.to_dict() for cost in costs], options.json)


def make_parser() -> Parser:
    """The parser of ``kat flops models``."""
    parser = Parser(__doc__, "[MODEL...]")
    add = parser.add
    add("models", nargs="*", metavar="MODEL", help=f"a model of timm's registry, {MODEL}")
    add(
        "--args",
        type=dict[str, Any],
        default={},
        help="further arguments of the constructor, for names: e.g. '{num_groups: 4}'",
    )
    add("--image-size", type=Count, metavar="N", help="side of the images in pixels, for names")
    add("--layers", action="store_true", help="also print a table of each model's layers")
    parser.add_csv("one row per model, with --layers one per layer,")
    parser.add_json("all counts")
    parser.add_progress()
    return parser
