"""The settings of training on the command line: recipes, options and their short forms."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ActionConfigFile

from kat.cli.options.parser import Parser
from kat.documents import read_yaml
from kat.errors import InputError, unknown
from kat.training import TrainConfig
from kat.training.run_directory import SETTINGS

SHORT = {
    "data": "data.name",
    "init_from": "model.init_from",
    "monitor": "monitor.enabled",
    "device": "accelerator",
}
"""Short forms of settings."""


def recipe_names() -> list[str]:
    """The recipes that the package ships."""
    names = (path.name for path in files("kat.recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def recipe_path(name: str) -> str:
    """The file of a recipe: ``name`` if it is a file, else the shipped recipe of this name.

    Whatever else ``name`` is, such as a pipe, is refused where it is opened.

    Raises:
        InputError: there is neither.
    """
    if Path(name).is_file() or (name not in recipe_names() and Path(name).exists()):
        return name
    if name not in recipe_names():
        raise unknown("recipe (nor is there a file of this name)", name, recipe_names())
    return str(files("kat.recipes") / f"{name}.yaml")


def read_recipe(path: str) -> dict[str, Any]:
    """The content of a recipe's file.

    Raises:
        InputError: the file is no YAML mapping; or it has a section and a dotted name of the
            section, of which one value would be lost.
    """
    content = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe: it must map settings to values")
    for key in map(str, content):
        section = key.partition(".")[0]
        if section != key and section in content:
            raise InputError(f"{path} has {key!r} and {section!r}: write all of {section!r} in one")
    return content


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
        settings: False: without the settings, for a short help.
    """

    def __init__(self, doc: str = "", *, settings: bool = True) -> None:
        super().__init__(doc, "[--config RECIPE] [--SETTING VALUE ...]")
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
