"""``kat train``: trains a classifier from a recipe."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from kat.cli.parsing import (
    Parser,
    check_recipe_keys,
    find_recipes,
    recipe_names,
    run_command,
)
from kat.training import Summary, TrainConfig, is_first_process, read_divergence, train
from kat.training.folder import SETTINGS, STABILITY, STABILITY_REPORT


def main(arguments: list[str]) -> int:
    """Parses the settings and trains."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    run(settings(make_parser(), arguments))


def run(config: TrainConfig) -> None:
    """Trains, and prints the outcome; of a monitored run also the verdict."""
    if not config.monitor.enabled:
        _print(train(config))
        return
    from kat.analysis import StabilityMonitor  # draws figures: not needed by other runs

    monitor = StabilityMonitor(config.monitor.interval)
    try:
        _print(train(config, monitor))
    finally:
        if monitor.rows and is_first_process():
            report(Path(config.out))


def report(out: Path) -> None:
    """Writes stability.html of a monitored run, and prints the verdict."""
    from kat.analysis import Verdict, read_rows, write_stability_report

    rows, failure = read_rows(out / STABILITY), read_divergence(out)
    write_stability_report(rows, out / STABILITY_REPORT, failure)
    lines = "\n".join(Verdict.of(rows, failure).lines)
    sys.stdout.write(f"{lines}\nreport: {out / STABILITY_REPORT}\n")


def _print(summary: Summary) -> None:
    if not is_first_process():
        return
    sys.stdout.write(
        f"best top-1 {summary.top1:.2f} %, top-5 {summary.top5:.2f} % after {summary.epochs}"
        f" epochs, {summary.parameters:,} parameters, {summary.seconds:.0f} s;"
        f" {summary.skipped} files skipped; all in {summary.out}\n"
    )


def settings(parser: Parser, arguments: list[str]) -> TrainConfig:
    """The settings that recipes, options and the run that is resumed give.

    Raises:
        InputError: an unknown recipe or setting, or a value of the wrong type.
    """
    arguments = find_recipes(arguments)
    config = parse(arguments, parser)
    if config.resume and not _config_files(arguments):
        config = parse(["--config", str(Path(config.out) / SETTINGS), *arguments], parser)
    return config


def parse(arguments: list[str], parser: Parser | None = None) -> TrainConfig:
    """The settings that recipe files and options give, the later over the earlier.

    Raises:
        InputError: an unknown setting, or a value of the wrong type.
    """
    for path in _config_files(arguments):
        check_recipe_keys(path, TrainConfig)
    parser = parser or make_parser()
    parsed = vars(parser.instantiate(parser.parse_args(spell_out(arguments))))
    return TrainConfig(**{field.name: parsed[field.name] for field in fields(TrainConfig)})


def spell_out(arguments: list[str]) -> list[str]:
    """``--monitor`` alone is ``--monitor.enabled true``, ``--init-from`` ``--model.init_from``."""
    arguments = [re.sub(r"^--init[-_]from(?==|$)", "--model.init_from", a) for a in arguments]
    followed = [*arguments[1:], "--"]
    return [
        "--monitor.enabled=true" if option == "--monitor" and after.startswith("--") else option
        for option, after in zip(arguments, followed, strict=True)
    ]


def make_parser() -> Parser:
    """The parser of ``kat train``, one option a setting."""
    return make_training_parser(
        "kat train",
        "Trains a classifier. Settings come from a recipe, and from the command line, which"
        f" wins. Recipes: {', '.join(recipe_names())}. --monitor records the stability of the"
        " GR-KAN layers on the way (kat stability --help).",
    )


def make_training_parser(name: str, description: str, **options: Any) -> Parser:
    """A parser that knows a recipe and every setting of training."""
    parser = Parser(prog=name, description=description, **options)
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a recipe's name, or a YAML file of settings"
    )
    parser.add_class_arguments(TrainConfig)
    return parser


def _config_files(arguments: list[str]) -> list[str]:
    after = [value for option, value in pairwise(arguments) if option == "--config"]
    joined = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    return after + joined
