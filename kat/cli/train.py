"""``kat train``: trains a classifier from a recipe."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from jsonargparse import ActionConfigFile

from kat.cli.parsing import (
    Parser,
    check_recipe_keys,
    find_recipes,
    recipe_names,
    run_command,
)
from kat.training import TrainConfig, is_first_process, train
from kat.training.folder import SETTINGS


def main(arguments: list[str]) -> int:
    """Parses the settings and trains."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    config = parse(find_recipes(arguments))
    if config.resume and not _config_files(arguments):
        config = parse(["--config", str(Path(config.out) / SETTINGS), *arguments])
    summary = train(config)
    if not is_first_process():
        return
    sys.stdout.write(
        f"best top-1 {summary.top1:.2f} %, top-5 {summary.top5:.2f} % after {summary.epochs}"
        f" epochs, {summary.parameters:,} parameters, {summary.seconds:.0f} s;"
        f" {summary.skipped} files skipped; all in {summary.out}\n"
    )


def parse(arguments: list[str]) -> TrainConfig:
    """The settings that recipes and options give, the later over the earlier.

    Raises:
        InputError: an unknown setting, or a value of the wrong type.
    """
    for path in _config_files(arguments):
        check_recipe_keys(path, TrainConfig)
    parser = make_parser()
    settings = parser.instantiate(parser.parse_args(arguments))
    return TrainConfig(**{name: v for name, v in vars(settings).items() if name != "config"})


def make_parser() -> Parser:
    """The parser of ``kat train``, one option a setting."""
    parser = Parser(
        prog="kat train",
        description=(
            "Trains a classifier. Settings come from a recipe, and from the command line, which"
            f" wins. Recipes: {', '.join(recipe_names())}."
        ),
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="a recipe's name, or a YAML file of settings"
    )
    parser.add_class_arguments(TrainConfig)
    return parser


def _config_files(arguments: list[str]) -> list[str]:
    after = [value for option, value in pairwise(arguments) if option == "--config"]
    joined = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    return after + joined
