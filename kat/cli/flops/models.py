"""``kat flops models``: parameters, FLOPs and activation memory of models, for one image.

Counts parameters, multiply-adds, FLOPs, and the bytes that autograd keeps for the backward pass;
beside them the paper's count, whose conventions differ (docs/costs.md).
Without a model: the models of the paper's table, beside the authors' figures.

examples:
  kat flops models                                       the paper's table
  kat flops models kat_tiny_patch16_224 vit_tiny_patch16_224 --image-size 384
  kat flops models kat_micro --args '{num_groups: 4, degree: [3, 2]}' --layers
  kat flops models runs/digits --layers --csv layers.csv       layer by layer
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from kat.analysis.cost.tables import PUBLISHED, model_cost
from kat.cli.options.parser import MODEL, Parser, tracked
from kat.files import write_text
from kat.settings import Count
from kat.tables import print_table, write_table
from kat.text import dimensions, say, scaled


def main(arguments: list[str]) -> None:
    """Counts, prints tables."""
    options = make_parser().parse_args(arguments)
    names = tracked(options.models or list(PUBLISHED), "counting", options)
    costs = [model_cost(name, options.args, options.image_size) for name in names]
    summed = []
    for model in costs:
        cost, (_, theirs) = model.cost, model.published or ("", "")
        agrees = model.published and ("yes" if model.rounded() == model.published else "NO")
        summed.append(
            {
                "model": model.model,
                "input": dimensions(model.input_size),
                "parameters": cost.parameters,
                "multiply-adds": scaled(cost.multiply_adds),
                "FLOPs": scaled(cost.flops),
                "paper's count": scaled(cost.terms.paper),
                "authors' GFLOPs": theirs,
                "equal": agrees or "",
                "kept for backward": scaled(model.memory.per_image, "B"),
            }
        )
    print_rows("for one image; beside the authors' figures (arXiv 2409.10594)", summed)
    for model in costs if options.layers else ():
        rows = [{k: v for k, v in row.items() if k != "model"} for row in model.layer_rows()]
        print_rows(model.model, rows)
    for model in costs:
        if fixed := model.memory.fixed:
            say(f"{model.model}: keeps another {fixed:,} bytes per batch of any size")
    layers = [row for model in costs for row in model.layer_rows()]
    table = layers if options.layers else [model.row() for model in costs]
    write_rows(options, table, [{**m.row(), "layers": m.layer_rows()} for m in costs])


_HEADERS = {
    "parameters_by_formula": "parameters: formula",
    "multiply_adds": "multiply-adds",
    "flops_by_formula": "FLOPs: formula",
    "flops": "FLOPs",
    "paper_count": "paper's count",
    "activation_bytes": "bytes kept",
}


def print_rows(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Prints a title, a table and an empty line; nothing without rows."""
    if rows:
        say(title)
        texts = [
            [f"{v:,}" if isinstance(v, int) else "" if v is None else str(v) for v in row.values()]
            for row in rows
        ]
        print_table([_HEADERS.get(name, name) for name in rows[0]], texts)
        say("")


def write_rows(options: Namespace, table: Sequence[Mapping[str, object]], content: object) -> None:
    """Writes the files of ``--csv`` and ``--json``."""
    if options.csv:
        write_table(options.csv, list(table[0]), table)
    if options.json:
        write_text(options.json, json.dumps(content, indent=2) + "\n")


def make_parser() -> Parser:
    """The parser of ``kat flops models``."""
    parser = Parser(__doc__, "[MODEL...]")
    add = parser.add
    add("models", nargs="*", metavar="MODEL", help=f"a model of timm's registry, {MODEL}")
    what = "further arguments of the constructor, for names: e.g. '{num_groups: 4}'"
    add("--args", type=dict[str, Any], default={}, help=what)
    add("--image-size", type=Count, metavar="N", help="side of the images in pixels, for names")
    add("--layers", action="store_true", help="also print a table of each model's layers")
    parser.add_csv("one row per model, with --layers one per layer,")
    parser.add_json("all counts")
    parser.add_common("--progress")
    return parser
