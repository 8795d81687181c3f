"""The settings of a run from recipes, YAML files of settings, and from what overrides them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from kat.data import DataConfig, task_of_data
from kat.documents import read_yaml
from kat.errors import InputError, check_is, unknown
from kat.settings import flat, merged, settings_from
from kat.training.config import TrainConfig
from kat.training.record.run_directory import LOCK, SETTINGS, read_settings, take_directory
from kat.training.tasks.registry import TASKS

SHORT = {
    "data": "data.name",
    "model": "model.name",
    "init_from": "model.init_from",
    "functions_from": "model.functions_from",
    "monitor": "monitor.enabled",
    "device": "accelerator",
}
"""Short names of settings of training, of which the first two and monitor are also sections."""
GRIDS = "kat.recipes.grids"

_WITH_DEFAULTS = ("digits", "fashion_mnist")
"""Data that the defaults of the settings suit."""


def recipe_names(package: str = "kat.recipes") -> list[str]:
    """Return the names of the recipes, or for :data:`GRIDS` of the grids, that are shipped."""
    return sorted(path.stem for path in Path(str(files(package))).glob("*.yaml"))


def recipe_path(name: str, kind: str = "recipe", package: str = "kat.recipes") -> str:
    """Find the file of a recipe: ``name`` if it is a file, else the shipped recipe of this name.

    Whatever else ``name`` is, such as a pipe, is refused where it is opened.

    Args:
        name: a path, or a name without its ending.
        kind: ``"recipe"`` or ``"grid"``, for the message.
        package: ships the files of this kind.

    Raises:
        InputError: there is neither.
    """
    known = recipe_names(package)
    if name in known and not Path(name).is_file():
        return str(files(package) / f"{name}.yaml")
    if not Path(name).exists():
        raise unknown(f"{kind} or file", name, known)
    return name


def read_recipe(name: str | Path | None) -> dict[str, Any]:
    """Read a recipe, by its path or its name, as nested settings; nothing for None.

    Raises:
        InputError: there is no such recipe, or the file is no YAML mapping of settings.
    """
    if name is None:
        return {}
    path = recipe_path(str(name))
    content = read_yaml(Path(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a recipe: it must map settings to values")
    return _named(content)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert settings with dotted names to nested ones: ``a.b: 1`` becomes ``a: {b: 1}``.

    A setting that has both forms, ``a.b: 1`` and ``a: {c: 2}``, has what both say. A short name
    becomes its long one: ``data: digits`` is ``data: {name: digits}``.
    """
    result: dict[str, Any] = {}
    for name, value in settings.items():
        one = value
        full = name if isinstance(value, Mapping) else SHORT.get(name, name)
        for section in reversed(str(full).split(".")):
            one = {section: one}
        result = merged(result, one)
    return result


def config_from(given: TrainConfig | Mapping[str, Any], before: str = "") -> TrainConfig:
    """Validate the settings of a run, which may say auto.

    Args:
        given: the settings; or values nested as in a recipe, or with dotted names. The others have
            their defaults.
        before: the beginning of a message.

    Raises:
        InputError: an unknown setting, or an invalid value.
    """
    content = given if isinstance(given, Mapping) else asdict(given)
    return settings_from(TrainConfig, _named(content, before), before)


def _named(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings nested, after a check of their names."""
    content, sections = nested(settings), asdict(TrainConfig())
    known = flat(sections)
    for name in flat(content):
        if name not in known and name not in sections and not name.startswith("model.args."):
            raise InputError(f"{before}{unknown('setting', name, known)}")
    return content


def given_settings(
    *settings: Mapping[str, Any], recipe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return all settings of a run: a base, on it those of a recipe, on them these settings.

    The base is, in this order:

    - for a run that is resumed, its own settings;
    - for a recipe that names a model, as all shipped ones do, and for digits and fashion_mnist, the
      defaults;
    - else the recipe for data of one's own: finetune, or for detection and segmentation
      finetune_TASK.

    Args:
        settings: nested, or with dotted names; later ones win.
        recipe: as :func:`read_recipe` returns it.

    Raises:
        InputError: the directory of a new run is taken.
    """
    for one in settings:
        check_is("settings", one, Mapping)
    recipe = recipe or {}
    given = merged(recipe, *map(nested, settings))
    data = str(flat(given).get("data.name", DataConfig.name))
    base: Mapping[str, Any] = {}
    if not data.startswith(_WITH_DEFAULTS) and "model.name" not in flat(recipe):
        base = read_recipe(TASKS[task_of_data(data)].recipe)
    defaults = asdict(TrainConfig())
    found = merged(defaults, base, given)
    out = Path(found["out"])
    if found["resume"] and (out / SETTINGS).is_file():
        return merged(defaults, read_settings(out), given, {"out": str(out)})
    if not found["resume"] and not (out / LOCK).exists():
        take_directory(out, found["overwrite"])  # before torch is imported
    return found
