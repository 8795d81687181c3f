"""The settings of training on the command line: recipes, options and their short forms."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from jsonargparse import ActionConfigFile

from kat.cli.options.parser import Parser
from kat.settings import merged
from kat.training import TrainConfig
from kat.training.settings.recipes import SHORT, given_settings, read_recipe, recipe_names


class _Recipe(ActionConfigFile):
    """Read a recipe by its path or its name, and put it on those before it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        cfg[self.dest] = merged(cfg.get(self.dest) or {}, read_recipe(values))


class TrainingParser(Parser):
    """The parser of a command that takes a recipe and every setting of training.

    Args:
        doc: the docstring of the command's module.
        settings: False: without the settings, for a short help.
    """

    def __init__(self, doc: str = "", *, settings: bool = True) -> None:
        super().__init__(doc, "[--config RECIPE] [--SETTING VALUE ...]")
        self.add(
            "--config",
            action=_Recipe,
            metavar="RECIPE",
            help=f"a YAML file of settings, or one of the recipes {', '.join(recipe_names())}",
        )
        self.add("--help-all", action="store_true", help="show every setting, and exit")
        if settings:
            self.add_settings(TrainConfig, skip={"loggers"})
            self.add(
                "--loggers",
                nargs="+",
                type=Literal["wandb", "mlflow"],
                default=[],
                help="loggers besides CSV and TensorBoard: wandb, mlflow, or both",
            )
            self.spellings |= {f"__{short}": f"--{name}" for short, name in SHORT.items()}


def parse_training(
    parser: TrainingParser, arguments: Sequence[str]
) -> tuple[dict[str, Any], Namespace]:
    """Return all settings, from recipes, options and the run that is resumed, and other options.

    Options win over recipes, and a later recipe over an earlier one. A run that is resumed has its
    own settings where neither says otherwise.

    Raises:
        InputError: an unknown recipe or setting, or a value of the wrong type.
    """
    options = parser.parse_args(arguments, defaults=False)
    given = options.as_dict()
    own = {name: given[name] for name in given.keys() & asdict(TrainConfig())}
    return given_settings(own, recipe=given.get("config")), options
