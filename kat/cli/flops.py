"""``kat flops``: what models and layers cost, by counting and by formula."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from torch import nn

from kat.analysis.cost.activation_memory import activation_memory
from kat.analysis.cost.detection import countable
from kat.analysis.cost.flops import count
from kat.analysis.cost.layer_comparison import compare_layers
from kat.analysis.cost.tables import (
    PUBLISHED,
    ModelCost,
    Row,
    comparison_row,
    print_comparison,
    print_costs,
    write_csv,
    write_json,
)
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.files import check_target
from kat.models import create_model, input_args, load_model, registered_preprocessing

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


def model_cost(name: str, args: dict[str, Any], image_size: int | None) -> ModelCost:
    """The cost of a model.

    Args:
        name: of timm's registry, or a path that :func:`kat.models.load_model` takes.
        args: further arguments of its constructor.
        image_size: side of its images, where not its own.

    Raises:
        InputError: no such model, or arguments that it refuses.
    """
    stored = Path(name).exists()
    if stored and (args or image_size):
        raise InputError(f"--args and --image_size are for names: {name} is stored with its own")
    model, input_size = _stored(Path(name)) if stored else _named(name, args, image_size)
    return ModelCost(
        name,
        input_size,
        count(model, input_size),
        activation_memory(countable(model), input_size),
        None if stored or args or image_size else PUBLISHED.get(name),
    )


def _stored(path: Path) -> tuple[nn.Module, tuple[int, int, int]]:
    model, record = load_model(path)
    return model, record.input_size


def _named(
    name: str, args: dict[str, Any], image_size: int | None
) -> tuple[nn.Module, tuple[int, int, int]]:
    if image_size is not None and image_size < 1:
        raise InputError(f"--image_size must be at least 1, got {image_size}")
    channels, height, width = registered_preprocessing(name)["input_size"]
    size = (args.get("in_chans", channels), image_size or height, image_size or width)
    return _build(name, {**input_args(name, size), **args}), size


def _build(name: str, args: dict[str, Any]) -> nn.Module:
    """Without drawing the weights, where the model can: costs do not depend on them."""
    try:
        return create_model(name, **{"weight_init": "skip", **args})
    except InputError:
        return create_model(name, **args)
