"""``kat plot activations``: what a model's rationals have learned, and what they are like."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor, nn

from kat.analysis import Reading, learned_activations, plot_activations, read_symbols
from kat.analysis.inspect.images import images_of_run, normalized
from kat.analysis.inspect.symbolic import median, write_readings
from kat.cli.parsing import Formatter, Parser, run_command
from kat.errors import InputError
from kat.files import PICTURES, check_target
from kat.models import ModelRecord, load_model
from kat.tables import print_table

_DESCRIPTION = """\
Draws every learned rational of a model, a panel a layer and a line a group, with the function that
it started as, over the inputs that it sees of some validation images: the run's own, or those of
--data. --symbolic names the known function that is nearest to each: c f(a x + b) + d with f such as
identity, relu, gelu, tanh, and the distance, in standard deviations of the learned function.

examples:
  kat plot activations runs/digits --out activations.svg
  kat plot activations runs/digits --symbolic --csv readings.csv
  kat plot activations model.safetensors --images 0 --width 4     without images"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, runs the model over images, draws."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    check_target(out, PICTURES)
    if parsed.csv:
        check_target(Path(parsed.csv))
    if parsed.images < 0:
        raise InputError(f"--images must be at least 0, got {parsed.images}")
    model, record = load_model(Path(parsed.checkpoint))
    inputs, note = _inputs(parsed, model, record)
    activations = learned_activations(model, inputs, width=parsed.width)
    plot_activations(activations, out)
    sys.stdout.write(f"{note}\n")
    if parsed.symbolic or parsed.csv:
        readings = [reading for activation in activations for reading in read_symbols(activation)]
        _print(readings)
        if parsed.csv:
            write_readings(readings, Path(parsed.csv))
            sys.stdout.write(f"{parsed.csv}\n")
    sys.stdout.write(f"{out}\n")


def make_parser() -> Parser:
    """The parser of ``kat plot activations``."""
    parser = Parser(
        prog="kat plot activations", description=_DESCRIPTION, formatter_class=Formatter
    )
    add = parser.add_argument
    add("checkpoint", help="a run's folder, a model's folder, or a file of weights")
    add("--data", type=str | None, help="data set to take images of; by default the run's own")
    add("--images", type=int, default=512, help="how many validation images; 0: draw without")
    add("--width", type=float | None, help="draw x from -WIDTH to WIDTH; by default as inputs are")
    add("--symbolic", action="store_true", help="print the nearest known functions")
    add("--csv", type=str | None, help="write the nearest known function of every group here")
    add("--out", default="activations.png", help="where to draw; .png, .svg or .pdf")
    return parser


def _inputs(
    parsed: Namespace, model: nn.Module, record: ModelRecord
) -> tuple[Iterator[Tensor] | None, str]:
    """Batches of inputs, if there are images, and a line that says which."""
    if parsed.images == 0:
        return None, "drawn without images"
    try:
        images = images_of_run(Path(parsed.checkpoint), model, record, parsed.images, parsed.data)
    except InputError as error:
        if parsed.data:
            raise
        return None, f"drawn without images: {error}"
    note = f"in grey the inputs of validation images of {images.data.name}, {images.count} at most"
    return normalized(images.batches(), record), note


def _print(readings: Sequence[Reading]) -> None:
    """A row for each function that is nearest to groups of a layer."""
    found: dict[tuple[str, str], list[Reading]] = {}
    for reading in readings:
        found.setdefault((reading.layer, reading.nearest), []).append(reading)
    rows = []
    for (layer, nearest), own in found.items():
        typical = min(own, key=lambda reading: reading.distance)
        distance = median(reading.distance for reading in own)
        from_start = median(reading.from_start for reading in own)
        numbers = (len(own), f"{distance:.3f}", f"{from_start:.3f}")
        rows.append((layer, nearest, *numbers, typical.formula))
    print_table(("layer", "nearest", "groups", "distance", "from start", "e.g."), rows)
