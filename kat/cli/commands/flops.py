"""``kat flops``: count parameters, FLOPs and activation memory of models and layers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from kat.cli.options.parser import MODEL, Parser, tracked, write_json
from kat.settings import Count
from kat.tables import print_table, write_table
from kat.text import dimensions, say, scaled


def models(arguments: list[str]) -> None:
    """``kat flops models``: count parameters, FLOPs and activation memory of models, for one image.

    Counts parameters, multiply-adds, FLOPs, and the bytes that autograd keeps for the backward
    pass; beside them the paper's count, whose conventions differ (docs/evaluation.md).
    Without a model: the models of the paper's table, beside the authors' figures.

    examples:
      kat flops models                                       the paper's table
      kat flops models kat_tiny_patch16_224 vit_tiny_patch16_224 --image-size 384
      kat flops models kat_micro --args '{num_groups: 4, degree: [3, 2]}' --layers
      kat flops models runs/digits --layers --csv layers.csv       layer by layer
    """
    options = models_parser().parse_args(arguments)
    from kat.analysis.cost.tables import PUBLISHED, model_cost  # imports torch

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
    _print(
        "for one image; kept as in eager training on a CPU; authors' figures: arXiv 2409.10594",
        summed,
    )
    table = [model.row() for model in costs]
    if options.layers:
        table = list(chain.from_iterable(model.layer_rows() for model in costs))
        for model in costs:
            rows = model.layer_rows()
            for row in rows:
                del row["model"]  # the title
            _print(model.model, rows)
    for model in costs:
        if fixed := model.memory.fixed:
            say(f"{model.model}: keeps another {fixed:,} bytes per batch of any size")
    _write(options, table, [{**m.row(), "layers": m.layer_rows()} for m in costs])


_HEADERS = {
    "parameters_by_formula": "parameters: formula",
    "multiply_adds": "multiply-adds",
    "flops_by_formula": "FLOPs: formula",
    "flops": "FLOPs",
    "paper_count": "paper's count",
    "activation_bytes": "bytes kept",
}


def _print(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print a title, a table and an empty line; nothing without rows."""
    if rows:
        say(title)
        texts = [list(map(_text, row.values())) for row in rows]
        print_table([_HEADERS.get(name, name) for name in rows[0]], texts)
        say("")


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def _write(options: Namespace, table: Sequence[Mapping[str, object]], content: object) -> None:
    """Write the files of ``--csv`` and ``--json``."""
    if options.csv:
        write_table(options.csv, list(table[0]), table)
    write_json(options, content)


def models_parser() -> Parser:
    """Return the parser of ``kat flops models``."""
    parser = Parser(models.__doc__, "[MODEL...]")
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
    parser.add_common("--progress")
    return parser


def layers(arguments: list[str]) -> None:
    """``kat flops layers``: count parameters and FLOPs of MLP, GR-KAN and KAN layers for one token.

    examples:
      kat flops layers 192 768
      kat flops layers 192 768 --degree 3 2 --groups 4 --grid 8
    """
    options = layers_parser().parse_args(arguments)
    from kat.analysis.cost.tables import compare_layers  # imports torch

    rows = compare_layers(
        options.d_in,
        options.d_out,
        degree=tuple(options.degree),
        groups=options.groups,
        grid=options.grid,
        order=options.order,
    )
    _print("for one token", rows)
    _write(options, rows, rows)


def layers_parser() -> Parser:
    """Return the parser of ``kat flops layers``."""
    parser = Parser(layers.__doc__, "D_IN D_OUT")
    add = parser.add
    add("d_in", type=Count, metavar="D_IN", help="input features")
    add("d_out", type=Count, metavar="D_OUT", help="output features")
    add(
        "--degree",
        nargs=2,
        type=int,
        default=[5, 4],
        metavar=("M", "N"),
        help="degrees of the rationals of the GR-KAN layer",
    )
    add("--groups", type=Count, default=8, help="groups of the GR-KAN layer")
    add("--grid", type=Count, default=5, help="grid intervals of the splines of the KAN layer")
    add("--order", type=Count, default=3, help="degree of the splines of the KAN layer")
    parser.add_csv("the table")
    parser.add_json("the table")
    return parser
