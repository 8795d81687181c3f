"""Recipes: the shipped ones by their names, and the check of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from kat.cli.options.parser import setting_defaults
from kat.documents import read_yaml
from kat.errors import InputError, unknown


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
        InputError: the file is no YAML mapping.
    """
    content = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe: it must map settings to values")
    return content


def check_keys(content: dict[str, Any], source: str, settings: type) -> None:
    """Checks that every key is the name of a setting.

    Args:
        content: values by the names of settings, nested as in a recipe.
        source: where the content comes from, for the message.
        settings: the dataclass of the settings.

    Raises:
        InputError: names the first unknown key and the nearest valid one; or a section is there,
            and a dotted name of it, of which one value would be lost.
    """
    valid = {name for name, _ in setting_defaults(settings)}
    for key in content:
        section = str(key).partition(".")[0]
        if section != key and section in content:
            raise InputError(
                f"{source} has {key!r} and {section!r}: write all of {section!r} in one"
            )
    for key, value in _dotted(content, valid):
        if key not in valid:
            raise unknown(f"setting in {source}", key, valid)
        if _is_section(key, valid) and not isinstance(value, dict):
            raise InputError(f"{key} in {source} must map settings to values, got {value!r}")


def _is_section(name: str, valid: set[str]) -> bool:
    return any(other.startswith(f"{name}.") for other in valid)


def _dotted(
    content: dict[str, Any], valid: set[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; of mappings only sections are entered."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        yield name, value
        if isinstance(value, dict) and _is_section(name, valid):
            yield from _dotted(value, valid, f"{name}.")
