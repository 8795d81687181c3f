"""``kat bench data``: find out whether loading the data or the model is the bottleneck.

Measures how many images a second the loader yields, alone and for several numbers of workers; how
long each stage of loading takes; and how many images a second the model takes in training on this
device. Says which of the two is the bottleneck, and how many workers are enough. Data,
augmentation, model and batch are those of 'kat train' with the same options.

examples:
  kat bench data --config imagenet_kat_tiny --data folder:/data/imagenet
  kat bench data --config imagenet_kat_tiny --data wds:/data/shards --try-workers "[4,8,16]"
  kat bench data --config mine.yaml --need 2400            for a GPU of another machine
"""

from __future__ import annotations

import json

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kat.cli.options.training_settings import TrainingParser, parse_training
from kat.files import write_text
from kat.settings import CountOrZero, Positive
from kat.tables import print_table
from kat.text import say
from kat.training.data_benchmark import DataBenchmark, benchmark_data


def main(arguments: list[str]) -> None:
    """Measures and prints."""
    config, options = parse_training(make_parser(), arguments)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not config.progress) as bar:
        task = bar.add_task("opening the data")
        result = benchmark_data(
            config,
            need=options.need,
            workers=options.try_workers,
            seconds=options.seconds,
            tell=lambda step: bar.update(task, description=step),
        )
    _print(result)
    if options.json:
        write_text(options.json, json.dumps(result.to_dict(), indent=2) + "\n")


def make_parser() -> TrainingParser:
    """The parser of ``kat bench data``."""
    parser = TrainingParser(__doc__)
    parser.add(
        "--need",
        type=Positive,
        metavar="RATE",
        help="images/s that the model takes, instead of measuring it",
    )
    parser.add(
        "--try-workers",
        type=list[CountOrZero],
        metavar="LIST",
        help="numbers of workers, e.g. [0,4,8]; by default 0, 1, 2, 4, ... up to the cores",
    )
    parser.add(
        "--seconds",
        type=Positive,
        default=5.0,
        help="time for each number of workers, for the stages and for the model",
    )
    parser.add_json("the results")
    return parser


def _print(result: DataBenchmark) -> None:
    say(f"{result.data}: the loader alone, on {result.cores} cores")
    loader = [
        (count, f"{rate:,.1f}", f"{rate / result.need:.0%}")
        for count, rate in result.loader.items()
    ]
    print_table(("workers", "images/s", "of the need"), loader)
    if result.stages:
        total = sum(result.stages.values())
        stages = [
            (name, f"{1e3 * seconds:.3f}", f"{seconds / total:.0%}")
            for name, seconds in result.stages.items()
        ]
        say("", "one image after the other, in one process")
        print_table(("stage", "ms an image", "share"), stages)
    if result.unreadable:
        say("", f"{result.unreadable} of the images loaded cannot be read")
    say("", result.verdict())
