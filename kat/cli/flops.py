"""``kat flops``: what models and layers cost, by counting and by formula."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from kat.analysis.cost.layer_comparison import compare_layers
from kat.analysis.cost.model_cost import PUBLISHED, Row, model_cost
from kat.analysis.cost.tables import (
    comparison_row,
    print_comparison,
    print_costs,
    write_csv,
    write_json,
)
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.files import check_target

_OF_COMPARISON = ("degree", "groups", "grid", "order")
_OF_MODELS = ("models", "args", "image_size", "layers")
_DESCRIPTION = """\
Counts, for one image, parameters, multiply-adds, FLOPs, and the bytes that autograd keeps for the
backward pass; beside them the FLOPs by formula and the paper's count, whose conventions differ
(docs/costs.md). Without a model: those of the paper's table, beside the authors' figures.

examples:
  kat flops                                              the paper's table
  kat flops kat_tiny_patch16_224 vit_tiny_patch16_224 --image_size 384
  kat flops kat_micro --args '{num_groups: 4, degree: [3, 2]}' --layers
  kat flops runs/digits --layers --csv layers.csv        the model of a run, layer by layer
  kat flops --compare-layers 192 768                     MLP, GR-KAN and KAN of these widths"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, counts, prints tables."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parser = make_parser()
    parsed = parser.parse_args(arguments)
    _refuse_what_does_nothing(parsed, parser.get_defaults())
    for path in (parsed.csv, parsed.json):
        if path:
            check_target(Path(path))
    if parsed.compare_layers:
        _compare(parsed)
    else:
        _count(parsed)


def make_parser() -> Parser:
    """The parser of ``kat flops``."""
    parser = Parser(prog="kat flops", description=_DESCRIPTION, formatter_class=Formatter)
    parser.add_argument(
        "models",
        nargs="*",
        default=[],
        metavar="MODEL",
        help="a name of timm's registry, a run's or a model's folder, or a checkpoint",
    )
    parser.add_argument(
        "--args",
        type=dict[str, Any],
        default={},
        help="further arguments of the models' constructors, e.g. '{num_groups: 4}'",
    )
    parser.add_argument("--image_size", type=int | None, help="side of the images, for names")
    parser.add_argument("--layers", action="store_true", help="also a table of each model's layers")
    parser.add_argument(
        "--compare-layers",
        nargs=2,
        type=int,
        metavar=("D_IN", "D_OUT"),
        help="instead of models: an MLP, a GR-KAN and a KAN layer of these widths, for one token",
    )
    parser.add_argument(
        "--degree",
        nargs=2,
        type=int,
        default=[5, 4],
        metavar=("M", "N"),
        help="of the GR-KAN layer's rationals",
    )
    parser.add_argument("--groups", type=int, default=8, help="of the GR-KAN layer")
    parser.add_argument("--grid", type=int, default=5, help="intervals of the KAN layer's splines")
    parser.add_argument("--order", type=int, default=3, help="degree of the KAN layer's splines")
    parser.add_argument(
        "--csv", type=str | None, help="write the models, with --layers the layers, to this file"
    )
    parser.add_argument("--json", type=str | None, help="write everything to this file")
    parser.add_argument("--progress", type=bool, default=True, help="show a progress bar")
    return parser


def _refuse_what_does_nothing(parsed: Namespace, default: Namespace) -> None:
    """Options of the comparison without it, and of models with it."""
    for name in _OF_MODELS if parsed.compare_layers else _OF_COMPARISON:
        if getattr(parsed, name) == getattr(default, name):
            continue
        if parsed.compare_layers:
            raise InputError(f"{name} and --compare-layers exclude each other")
        raise InputError(f"--{name} does nothing without --compare-layers; models have --args")


def _compare(parsed: Namespace) -> None:
    sizes = {name: getattr(parsed, name) for name in ("groups", "grid", "order")}
    compared = compare_layers(*parsed.compare_layers, degree=tuple(parsed.degree), **sizes)
    print_comparison(compared)
    rows = [comparison_row(layer) for layer in compared]
    _write(parsed, rows, rows)


def _count(parsed: Namespace) -> None:
    names = _progress(parsed.models or list(PUBLISHED), parsed.progress)
    costs = [model_cost(name, parsed.args, parsed.image_size) for name in names]
    print_costs(costs, layers=parsed.layers)
    by_layer = [row for cost in costs for row in cost.layer_rows()]
    rows = by_layer if parsed.layers else [cost.row() for cost in costs]
    _write(parsed, rows, [cost.to_dict() for cost in costs])


def _write(parsed: Namespace, table: list[Row], content: list[Row]) -> None:
    if parsed.csv:
        write_csv(table, Path(parsed.csv))
    if parsed.json:
        write_json(content, Path(parsed.json))


def _progress(names: list[str], shown: bool) -> Iterable[str]:
    console = Console(file=sys.stderr)
    hidden = not (shown and console.is_terminal)
    return track(names, "counting", console=console, transient=True, disable=hidden)
