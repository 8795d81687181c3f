"""``kat bench``: measures what limits a run on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from kat.cli import train
from kat.cli.parsing import Formatter, Parser, find_recipes, run_command
from kat.errors import unknown
from kat.files import check_target, write_text
from kat.tables import print_table
from kat.training.data_benchmark import DataBenchmark, benchmark_data

_SUBJECTS = ("data",)
_DESCRIPTION = """\
Measures how many images a second the loader gives, alone and for several numbers of workers, what
each stage of loading takes, and how many images a second the model takes in training on this
device; says which of the two is the bottleneck, and how many workers would do. Data, augmentation,
model and batch are those of 'kat train' with the same options. Nothing is written but --json.

examples:
  kat bench data --config imagenet_kat_tiny --data.name folder:/data/imagenet
  kat bench data --config imagenet_kat_tiny --data.name wds:/data/shards --try-workers "[4,8,16]"
  kat bench data --config mine.yaml --need 2400        for a GPU that is not here"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, measures and prints."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    subject, rest = (arguments or ["--help"])[0], arguments[1:]
    if subject in ("-h", "--help"):
        make_parser().print_help()
        return
    if subject not in _SUBJECTS:
        raise unknown("subject of kat bench", subject, _SUBJECTS)
    parser, rest = make_parser(), find_recipes(rest)
    config = train.settings(parser, rest)
    options = parser.parse_args(train.spell_out(rest))
    if options.json:
        check_target(Path(options.json))
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
        write_text(Path(options.json), json.dumps(result.to_dict(), indent=2) + "\n")


def _print(result: DataBenchmark) -> None:
    sys.stdout.write(f"{result.data}: the loader alone, on {result.cores} cores\n")
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
        sys.stdout.write("\none image after the other, in one process\n")
        print_table(("stage", "ms an image", "share"), stages)
    if result.unreadable:
        sys.stdout.write(f"\n{result.unreadable} of the images loaded cannot be read\n")
    sys.stdout.write(f"\n{result.verdict()}\n")


def make_parser() -> Parser:
    """The parser of ``kat bench data``: that of training, and what the measurement needs."""
    parser = train.make_training_parser("kat bench data", _DESCRIPTION, formatter_class=Formatter)
    parser.add_argument(
        "--need", type=float | None, help="images/s that the model takes, instead of measuring it"
    )
    parser.add_argument(
        "--try-workers",
        type=list[int] | None,
        help="numbers of workers, e.g. [0,4,8] (default: 0, 1, 2, 4, ... up to the cores)",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="time for each number, the stages, the model"
    )
    parser.add_argument("--json", type=str | None, help="write the result to this file")
    return parser
