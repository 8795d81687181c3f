"""What the commands have in common: parsing, recipes by name, and one line for bad input."""

from __future__ import annotations

import dataclasses
import re
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from kat.errors import (
    CheckpointFailed,
    ExportFailed,
    InputError,
    Interrupted,
    TrainingDiverged,
    unknown,
)

USAGE_ERROR, FAILED = 2, 1
RUN_AGAIN = 75
"""A run that was asked to stop, and can go on: EX_TEMPFAIL of sysexits.h."""


class Formatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


class Parser(ArgumentParser):
    """jsonargparse's parser, whose errors are one line with the nearest valid name."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raises the message as :class:`InputError`."""
        raise InputError(self._explain(" ".join(message.split())))

    def _explain(self, message: str) -> str:
        match = re.search(r"unrecognized arguments: --([\w.]+)", message, re.IGNORECASE)
        return str(unknown("setting", match[1], self._names())) if match else message

    def _names(self) -> list[str]:
        return [action.dest for action in self._actions if action.dest != "help"]


def run_command(body: Callable[[], int | None]) -> int:
    """Runs a command's body, which may return an exit code; bad input is one line, and code 2."""
    try:
        return body() or 0
    except InputError as error:
        return _fail(error, USAGE_ERROR)
    except (TrainingDiverged, CheckpointFailed, ExportFailed) as error:
        return _fail(error, FAILED)
    except Interrupted as error:
        return _fail(error, RUN_AGAIN)


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"kat: {' '.join(str(error).split())}\n")
    return code


def refuse_unused(
    parser: ArgumentParser, parsed: Namespace, unused: Mapping[str, Sequence[str]], task: str
) -> None:
    """Checks that no option is given that has no effect.

    Args:
        parser: knows the defaults.
        parsed: what was given.
        unused: by task the options that it has no use for.
        task: the model's.

    Raises:
        InputError: one is not as it is by default.
    """
    for name in unused[task]:
        if getattr(parsed, name) != parser.get_default(name):
            raise InputError(f"--{name} has no effect on a model for {task}: leave it out")


def recipe_names() -> list[str]:
    """The recipes that the package ships."""
    names = (path.name for path in files("kat.recipes").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def find_recipes(arguments: list[str]) -> list[str]:
    """Replaces ``--config NAME`` by the path of the shipped recipe NAME, unless NAME is a file.

    Raises:
        InputError: there is neither such a file nor such a recipe.
    """
    found = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            found[index + 1] = recipe_path(arguments[index + 1])
        elif argument.startswith("--config="):
            found[index] = f"--config={recipe_path(argument.removeprefix('--config='))}"
    return found


def recipe_path(name: str) -> str:
    """The file of a recipe: itself, if it is one, else the shipped one of this name.

    Raises:
        InputError: there is neither.
    """
    if Path(name).is_file():
        return name
    if name not in recipe_names():
        raise unknown("recipe (nor is there a file of this name)", name, recipe_names())
    return str(files("kat.recipes") / f"{name}.yaml")


def check_recipe_keys(path: str, settings: type) -> None:
    """Checks a recipe's keys against the settings they stand for.

    Raises:
        InputError: names the first unknown key and the nearest valid one; or the file is no YAML
            mapping.
    """
    check_keys(read_recipe(path), path, settings)


def read_recipe(path: str) -> dict[str, Any]:
    """What a recipe's file holds.

    Raises:
        InputError: the file is no YAML mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe: it must map settings to values")
    return content


def check_keys(content: dict[str, Any], source: str, settings: type) -> None:
    """Checks the keys of nested settings.

    Raises:
        InputError: names the first unknown key and the nearest valid one.
    """
    valid = set(setting_names(settings))
    for key, value in _settings(content, valid):
        if key not in valid:
            raise unknown(f"setting in {source}", key, valid)
        if _is_nested(key, valid) and not isinstance(value, dict):
            raise InputError(f"{key} in {source} must map settings to values, got {value!r}")


def setting_names(settings: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of a dataclass's fields, of nested dataclasses too."""
    for field in dataclasses.fields(settings):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.default_factory):
            yield from setting_names(field.default_factory, f"{prefix}{field.name}.")


def _is_nested(name: str, valid: set[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in valid)


def _settings(
    content: dict[str, Any], valid: set[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; a mapping is entered only where it stands for nested settings."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        yield name, value
        if isinstance(value, dict) and _is_nested(name, valid):
            yield from _settings(value, valid, f"{name}.")
