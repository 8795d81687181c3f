"""``kat plot activations``: the learned rationals of a model, over the inputs that they see.

One panel per layer, one line per group, with its initial function. The inputs are those of
validation images: the run's own, or those of --data. --symbolic names the nearest known function of
each: c f(a x + b) + d with f such as identity, relu, gelu, tanh, and its distance in standard
deviations of the learned function.

examples:
  kat plot activations runs/digits --out activations.svg
  kat plot activations runs/digits --symbolic --csv readings.csv
  kat plot activations model.safetensors --images 0 --width 4     without images
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from kat.analysis import Reading, learned_activations, plot_activations, read_symbols
from kat.analysis.inspect.predictions import images_of_run, normalized
from kat.analysis.inspect.symbolic import median, write_readings
from kat.cli.options.parser import Parser, refuse_options
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.nn import read_coefficient_history
from kat.settings import CountOrZero, Positive
from kat.tables import print_table
from kat.text import say
from kat.training.run_directory import COEFFICIENTS


def main(arguments: list[str]) -> None:
    """Runs the model over images, draws."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.images == 0:
        refuse_options(parser, options, ["data"], "with --images 0")
    model, record = load_model(options.run)
    inputs, note = _inputs(options, model, record)
    path = options.run / COEFFICIENTS
    history = read_coefficient_history(path) if path.is_file() else None
    activations = learned_activations(model, inputs, width=options.width, history=history)
    plot_activations(activations, options.out)
    say(note)
    if options.symbolic or options.csv:
        readings = [reading for activation in activations for reading in read_symbols(activation)]
        _print(readings)
        if options.csv:
            write_readings(readings, options.csv)
            say(options.csv)
    say(options.out)


def make_parser() -> Parser:
    """The parser of ``kat plot activations``."""
    parser = Parser(__doc__, "RUN")
    add = parser.add
    parser.add_common("run", "--data")
    what = "number of validation images; 0: draw without images"
    add("--images", type=CountOrZero, default=512, metavar="N", help=what)
    add("--width", type=Positive, help="draw x from -WIDTH to WIDTH (default: the range of inputs)")
    add("--symbolic", action="store_true", help="print the nearest known functions")
    parser.add_csv("the nearest known function of every group")
    parser.add_picture("activations.png")
    return parser


def _inputs(
    options: Namespace, model: nn.Module, record: ModelRecord
) -> tuple[Iterator[Tensor] | None, str]:
    """Batches of inputs, if there are images, and a line that says which."""
    if options.images == 0:
        return None, "drawn without images"
    try:
        images = images_of_run(options.run, model, record, options.images, options.data)
    except InputError as error:
        if options.data:
            raise
        return None, f"drawn without images: {error}"
    note = f"in gray the inputs of validation images of {images.data.name}, {images.count} at most"
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
