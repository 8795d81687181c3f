"""Recipes: the shipped ones by their names, and others by their paths."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

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
