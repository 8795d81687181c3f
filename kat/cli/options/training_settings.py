"""The settings of training on the command line: recipes, options and their short forms."""

from __future__ import annotations

from argparse import Action, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, DefaultHelpFormatter

from kat.cli.options.parser import Parser
from kat.cli.options.recipes import check_keys, read_recipe, recipe_names, recipe_path
from kat.tables import aligned
from kat.training import TrainConfig
from kat.training.config import setting
from kat.training.run_directory import SETTINGS

SHORT = {
    "data": "data.name",
    "init_from": "model.init_from",
    "monitor": "monitor.enabled",
    "device": "accelerator",
}
"""Short forms of settings."""
ESSENTIAL = {
    "data.name": ("the dataset", "--data folder:/data/flowers"),
    "model.name": ("the model", "--model.name kat_tiny_patch16_224"),
    "model.init_from": ("start from this trained model", "--init-from runs/imagenet"),
    "epochs": ("passes over the training data", "--epochs 100"),
    "data.batch_size": ("images per step in each process", "--data.batch_size 256"),
    "data.image_size": ("side of the images that the model sees", "--data.image_size 224"),
    "optim.lr": ("peak learning rate", "--optim.lr 5e-4"),
    "precision": ("floating-point format", "--precision bf16-mixed"),
    "out": ("the run directory", "--out runs/mine"),
    "resume": ("resume the run in out", "--resume auto"),
}
"""The settings that matter most, each with its meaning and an example."""


class _AllSettings(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Shows types, too."""


class TrainingParser(Parser):
    """The parser of a command that takes a recipe and every setting of training.

    ``--help`` shows the command's own options and the most important settings, ``--help-all``
    every setting.

    Args:
        doc: the docstring of the command's module.
    """

    def __init__(self, doc: str = "") -> None:
        self.own: Parser | None = None
        subject = "[--config RECIPE] [--SETTING VALUE ...]"
        super().__init__(doc, subject, formatter_class=_AllSettings)
        self.add_settings(TrainConfig)
        self.own = Parser(doc, subject, epilog=_essential_settings())
        self.add(
            "--config",
            action=ActionConfigFile,
            metavar="RECIPE",
            help=f"a YAML file of settings, or one of the recipes {', '.join(recipe_names())}",
        )
        self.add("--help-all", action="store_true", help="show every setting, and exit")

    def add(self, *names: str, **options: Any) -> Action:
        """Adds an option of the command, which ``--help`` shows."""
        if self.own is not None and names not in (("--quiet",), ("--debug",)):
            self.own.add(*names, **options)
        return super().add(*names, **options)

    def format_help(self, *formatter: Any) -> str:
        """The text of ``--help``."""
        return super().format_help(*formatter) if self.own is None else self.own.format_help()

    def format_all_help(self) -> str:
        """The text of ``--help-all``."""
        return super().format_help()

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """Parses settings in their short forms, too, and the recipes by their names."""
        given = list(spelled_out(args or []))
        if "--help_all" in given:
            self.own, given = None, ["--help"]
        return super().parse_args(given, *more, **options)


def parse_training(
    parser: TrainingParser, arguments: Sequence[str]
) -> tuple[TrainConfig, Namespace]:
    """The settings from recipes, options, and the run that is resumed; and the other options.

    A later recipe or option wins over an earlier one. A run that is resumed has its own settings
    where neither says otherwise.

    Raises:
        InputError: an unknown recipe or setting, or a value of the wrong type.
    """
    options = parser.parse_args(arguments)
    config = _to_config(parser, options)
    kept = Path(config.out) / SETTINGS
    if config.resume and kept.is_file():
        options = parser.parse_args(["--config", str(kept), *arguments])
        config = _to_config(parser, options)
    return config, options


def config_from(parser: TrainingParser, content: dict[str, Any], source: str) -> TrainConfig:
    """The settings from values nested as in a recipe.

    Raises:
        InputError: an unknown setting, or a value of the wrong type.
    """
    check_keys(content, source, TrainConfig)
    return _to_config(parser, parser.parse_object(content))


def _to_config(parser: TrainingParser, parsed: Namespace) -> TrainConfig:
    values = vars(parser.instantiate(parsed))
    return TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig)})


def spelled_out(arguments: Sequence[str]) -> Iterator[str]:
    """Arguments with settings in their full form.

    - ``--data``, ``--init-from``, ``--monitor`` and ``--device`` are short for settings.
    - The words after ``--loggers`` are a list.
    - After ``--config``, the name of a recipe becomes its path, and the recipe's keys are checked.

    Raises:
        InputError: an unknown recipe, or an unknown key in it.
    """
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not name.startswith("--"):
            yield name + equals + value
            continue
        key = name[2:].replace("-", "_")
        key = SHORT.get(key, key)
        follows = bool(equals) or (bool(words) and not words[0].startswith("--"))
        if key == "loggers" and not equals:
            names = list(takewhile(lambda word: not word.startswith("-"), words))
            del words[: len(names)]
            yield f"--loggers=[{', '.join(name.strip('[], ') for name in names)}]"
        elif key == "config" and follows:
            path = recipe_path(value if equals else words.pop(0))
            check_keys(read_recipe(path), path, TrainConfig)
            yield f"--config={path}"
        else:
            yield f"--{key}{equals}{value}"


def _essential_settings() -> str:
    """The table of the settings that matter most."""
    defaults = TrainConfig()
    rows = [("setting", "default", "", "example")]
    for name, (meaning, example) in ESSENTIAL.items():
        default = setting(defaults, name)
        rows.append((name, "-" if default is None else str(default), meaning, example))
    short = " ".join(f"--{name.replace('_', '-')}" for name in SHORT)
    table = "\n".join(aligned(rows, indent="  "))
    return (
        f"the settings that matter most:\n{table}\n\n"
        f"short for {' '.join(SHORT.values())}: {short}\n"
        "'--help-all' shows every setting; in names - and _ mean the same"
    )
