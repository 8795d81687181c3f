"""Grids of runs: combinations of the levels of factors, each with several seeds.

A grid is a YAML file:

    title: What do the groups bring?
    recipe: fashion_mnist            # the settings of every run
    settings: {epochs: 2}            # override the recipe
    seeds: [0, 1, 2]
    vary: one                        # one factor at a time; all: every combination
    factors:
      groups:                        # the first level of each factor is the reference
        "8": {}
        "4": {model.args.num_groups: 4}
    tune: {setting: optim.lr, values: [0.001, 0.002, 0.004], seed: 100}    # optional, for each cell
    test: true            # optional: the best and the last weights on the data's own split
    reached: "8"          # optional: a cell, whose result the others may reach earlier

A factor that varies a single setting can be a list: ``model.args.num_groups: [8, 4]``. A star in a
level's model.name is replaced by the size of the recipe's KAT: if the recipe trains
``kat_tiny_patch16_224``, then ``vit_mlp_*`` is ``vit_mlp_tiny_patch16_224``.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kat.documents import read_yaml
from kat.errors import InputError, unknown
from kat.training.config import TrainConfig
from kat.training.evaluation.tested_run import TEST_COLUMNS
from kat.training.run_directory import read_settings, settings_to_keep
from kat.training.sweep.concurrency import RUNS_AT_ONCE
from kat.training.tasks.registry import TASKS

Settings = dict[str, Any]
"""Nested settings, as in a recipe."""

REPORTING = ("out", "log_every_n_steps", "loggers")
"""Settings of the run directory and of logging, which do not change the result of a run."""

OF_ONE_CALL = ("out", "seed", "resume", "overwrite", "limit_epochs", "max_steps", "max_time")
"""Settings that a grid may not contain: the grid sets them, or they belong to a single call."""

_COLUMNS = (
    "cell", "seed", "status", "parameters", "flops", "seconds", "epochs", "best_epoch", "run",
    "images_per_second", "memory_bytes", "tuned", "title", "settings",
    "epochs_to_reference", RUNS_AT_ONCE, *TEST_COLUMNS,
    *(metric.name for task in TASKS.values() for metric in task.metrics),
)  # fmt: skip
"""The columns of a table of runs besides its factors."""

_KEYS = ("title", "recipe", "settings", "seeds", "vary", "factors", "tune", "test", "reached")


@dataclass
class Cell:
    """One combination of levels, trained once per seed.

    Args:
        name: unique name within the grid.
        levels: level of each factor.
        settings: settings of its levels, and the value that tuning has chosen.
        tuned: that value as text, and whether it is the smallest or largest one; empty without.
    """

    name: str
    levels: dict[str, str]
    settings: Settings
    tuned: str = ""


@dataclass
class Tuning:
    """A setting that is chosen for each cell; see :mod:`kat.training.sweep.tuning`.

    Args:
        setting: dotted name of the setting.
        values: values that each cell is trained with.
        seed: seed of these runs.
    """

    setting: str
    values: list[float]
    seed: int


@dataclass
class Grid:
    """A grid of runs; see :func:`read_grid`.

    Args:
        name: file name without its extension.
        title: question that the grid answers.
        recipe: name or path of the recipe of all runs, or None.
        settings: settings of all runs, over those of the recipe.
        seeds: seeds of each cell, one run per seed.
        cells: combinations of levels; the first one is the reference.
        factors: names of the factors.
        tune: what is tuned for each cell, or None.
        test: whether finished runs are tested on the data's own validation split.
        reached: name of the cell whose mean result gives ``epochs_to_reference``, or None.
    """

    name: str
    title: str
    recipe: str | None
    settings: Settings
    seeds: list[int]
    cells: list[Cell]
    factors: list[str] = field(default_factory=list)
    tune: Tuning | None = None
    test: bool = False
    reached: str | None = None

    @property
    def names_of_tables(self) -> list[str]:
        """The names of the tables of runs that it makes."""
        return [self.name] if self.tune is None else [self.name, f"{self.name}_tuning"]


def read_grid(path: Path) -> Grid:
    """Reads a grid from a YAML file.

    Raises:
        InputError: the file cannot be read, or an entry is unknown, missing or of the wrong type.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("factors"), dict):
        raise InputError(f"{path} is not a grid: it needs 'factors', each with its levels")
    for key in content:
        if key not in _KEYS:
            raise unknown(f"entry of {path}", str(key), _KEYS)
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) for s in seeds):
        raise InputError(f"seeds of {path} must be a list of whole numbers, got {seeds!r}")
    check_seeds(seeds, f"seeds of {path}")
    recipe = content.get("recipe")
    if recipe is not None and not isinstance(recipe, str):
        raise InputError(f"recipe of {path} must be a name or a path, got {recipe!r}")
    if not content["factors"]:
        raise InputError(f"{path} has no factors")
    for name in content["factors"]:
        if name in _COLUMNS:
            raise InputError(
                f"the factor {name!r} of {path} has the name of a column of the results; rename it"
            )
    vary = content.get("vary", "all")
    if vary not in ("one", "all"):
        raise InputError(f"vary of {path} must be 'one' or 'all', got {vary!r}")
    factors = {str(n): _levels(path, str(n), given) for n, given in content["factors"].items()}
    cells = _cells(factors, vary)
    test, reached = content.get("test", False), content.get("reached")
    if not isinstance(test, bool):
        raise InputError(f"test of {path} must be true or false, got {test!r}")
    names = [cell.name for cell in cells]
    if reached is not None and _text(reached) not in names:
        raise unknown(f"cell in reached of {path}", _text(reached), names)
    return Grid(
        name=path.stem,
        title=str(content.get("title", path.stem)),
        recipe=recipe,
        settings=nested(_mapping(path, "settings", content.get("settings"))),
        seeds=seeds,
        cells=cells,
        factors=list(factors),
        tune=_tuning(path, content["tune"], cells) if "tune" in content else None,
        test=test,
        reached=None if reached is None else _text(reached),
    )


def check_seeds(seeds: Sequence[int], what: str) -> None:
    """Checks that all seeds differ.

    Args:
        seeds: the seeds.
        what: name of the setting, for the error message.

    Raises:
        InputError: a seed occurs twice.
    """
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{what} must differ, got {list(seeds)}")


def _tuning(path: Path, given: Any, cells: Sequence[Cell]) -> Tuning:
    entries = _mapping(path, "tune", given)
    if set(entries) != {"setting", "values", "seed"}:
        raise InputError(f"tune of {path} must have setting, values and seed, got {given!r}")
    setting, values, seed = entries["setting"], entries["values"], entries["seed"]
    if not isinstance(setting, str) or type(seed) is not int:
        raise InputError(f"tune of {path} needs the name of a setting and a whole number as seed")
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    if len(numbers) < 2 or None in numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"values of tune of {path} must be two or more numbers, got {values!r}")
    if setting in _COLUMNS:
        raise InputError(f"{path} cannot tune {setting}, the name of a column of the results")
    for cell in cells:
        if setting in (*cell.levels, *dotted(cell.settings)):
            raise InputError(f"{path} cannot tune {setting}: the cell {cell.name!r} sets it")
    return Tuning(setting, [number for number in numbers if number is not None], seed)


def _number(value: Any) -> float | None:
    """A number, also one like 1e-3, which YAML takes for text; None if it is something else."""
    if type(value) in (int, float):
        number: float = value
        return number
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _levels(path: Path, factor: str, given: Any) -> dict[str, Settings]:
    """The settings of each level."""
    if isinstance(given, list):
        given = {_text(value): {factor: value} for value in given}
    if not isinstance(given, dict) or not given:
        raise InputError(f"the factor {factor!r} of {path} must map levels to settings")
    return {
        _text(level): nested(_mapping(path, f"{factor}: {level}", settings))
        for level, settings in given.items()
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mapping(path: Path, what: str, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{what} of {path} must map settings to values, got {given!r}")
    return given


def _cells(factors: dict[str, dict[str, Settings]], vary: Literal["one", "all"]) -> list[Cell]:
    names = list(factors)
    reference = [next(iter(levels)) for levels in factors.values()]
    if vary == "all":
        combinations = [list(levels) for levels in itertools.product(*factors.values())]
    else:
        combinations = [reference]
        for place, levels in enumerate(factors.values()):
            combinations += [
                [*reference[:place], level, *reference[place + 1 :]] for level in list(levels)[1:]
            ]
    return [
        Cell(
            name=_name(names, combination, reference, vary),
            levels=dict(zip(names, combination, strict=True)),
            settings=merged(
                *(factors[n][level] for n, level in zip(names, combination, strict=True))
            ),
        )
        for combination in combinations
    ]


def _name(names: list[str], levels: list[str], reference: list[str], vary: str) -> str:
    """The levels; if one factor varies at a time, only the level that is not the reference."""
    if len(names) == 1:
        return levels[0]
    pairs = list(zip(names, levels, reference, strict=True))
    if vary == "one":
        pairs = [pair for pair in pairs if pair[1] != pair[2]]
    return ", ".join(f"{name}: {level}" for name, level, _ in pairs) or "reference"


def nested(settings: Mapping[str, Any]) -> Settings:
    """Converts settings with dotted names to nested ones: ``a.b: 1`` becomes ``a: {b: 1}``."""
    result: Settings = {}
    for name, value in settings.items():
        *sections, key = str(name).split(".")
        inner = result
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise InputError(f"{name!r}: {section!r} already has the value {inner!r}")
        inner[key] = copy.deepcopy(value)
    return result


def merged(*settings: Settings) -> Settings:
    """Merges nested settings; later ones override earlier ones."""
    result: Settings = {}
    for given in settings:
        for key, value in given.items():
            known = result.get(key)
            if isinstance(value, dict) and isinstance(known, dict):
                result[key] = merged(known, value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def dotted(settings: Settings, before: str = "") -> Settings:
    """Converts nested settings to dotted names, the inverse of :func:`nested`."""
    flat: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= dotted(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def with_model_of_size(content: Settings, base: Settings) -> Settings:
    """Replaces a star in model.name by the size of the base's KAT.

    Args:
        content: settings of a cell, merged into the base.
        base: settings that all cells share.

    Raises:
        InputError: the name has a star, but the base's model is not a KAT.
    """
    name = content.get("model", {}).get("name")
    if not isinstance(name, str) or "*" not in name:
        return content
    kat = str(base.get("model", {}).get("name", ""))
    if not kat.startswith(_KAT):
        raise InputError(f"model.name={name} needs a KAT's size, but the grid's model is {kat!r}")
    filled = name.replace("*", kat.removeprefix(_KAT))
    return merged(content, {"model": {"name": filled}})


_KAT = "kat_"


def settings_of(config: TrainConfig) -> Settings:
    """The settings that determine the result of a run and differ from the defaults.

    They do not change when a new setting with a default is added. The run directory and the
    settings of logging are left out.
    """
    return _not_default(settings_to_keep(config))


def kept_settings(out: Path) -> Settings:
    """:func:`settings_of` the run in a run directory.

    Raises:
        InputError: the folder has no readable run.yaml.
    """
    return _not_default(read_settings(out))


def fingerprint(config: TrainConfig) -> str:
    """A hash of :func:`settings_of`: twelve hexadecimal digits."""
    text = json.dumps(settings_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _not_default(settings: Settings) -> Settings:
    own = {name: value for name, value in settings.items() if name not in REPORTING}
    return _differing(own, settings_to_keep(TrainConfig()))


_ABSENT = object()


def _differing(own: Settings, default: Settings) -> Settings:
    differing: Settings = {}
    for key, value in own.items():
        usual = default.get(key, _ABSENT)
        if isinstance(value, dict) and isinstance(usual, dict):
            value, usual = _differing(value, usual), {}
        if value != usual:
            differing[key] = value
    return differing
