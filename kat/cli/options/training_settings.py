"""The settings of training on the command line: recipes, options and their short forms."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionConfigFile

from kat.cli.options.parser import Parser
from kat.cli.options.recipes import read_recipe, recipe_names, recipe_path
from kat.errors import InputError
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


class _Recipe(ActionConfigFile):
    """Reads a recipe by its path or its name."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        path = recipe_path(values)
        read_recipe(path)  # within bounds
        super().__call__(parser, cfg, path, option_string)


class TrainingParser(Parser):
    """The parser of a command that takes a recipe and every setting of training.

    Args:
        doc: the docstring of the command's module.
        settings: False: without the settings, for a help that shows the most important ones.
    """

    def __init__(self, doc: str = "", *, settings: bool = True) -> None:
        epilog = None if settings else _essential_settings()
        super().__init__(doc, "[--config RECIPE] [--SETTING VALUE ...]", epilog=epilog)
        what = f"a YAML file of settings, or one of the recipes {', '.join(recipe_names())}"
        self.add("--config", action=_Recipe, metavar="RECIPE", help=what)
        self.add("--help-all", action="store_true", help="show every setting, and exit")
        if settings:
            self.add_settings(TrainConfig, skip={"loggers"})
            what = "loggers besides CSV and TensorBoard: wandb, mlflow, or both"
            self.add("--loggers", nargs="+", type=Literal["wandb", "mlflow"], default=[], help=what)
            self.spellings |= {f"__{short}": f"--{name}" for short, name in SHORT.items()}


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
    """The settings from values nested as in a recipe; ``source`` names them in messages.

    Raises:
        InputError: an unknown setting, or a value of the wrong type.
    """
    try:
        return _to_config(parser, parser.parse_object(content))
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _to_config(parser: TrainingParser, parsed: Namespace) -> TrainConfig:
    values = vars(parser.instantiate(parsed))
    return TrainConfig(**{field.name: values[field.name] for field in fields(TrainConfig)})


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
