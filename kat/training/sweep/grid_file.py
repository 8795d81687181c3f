"""Grids in YAML files.

A grid:

    title: What do the groups bring?
    recipe: fashion_mnist            # the settings of every run
    settings: {epochs: 2}            # override the recipe
    seeds: [0, 1, 2]
    vary: one                        # one factor at a time; all: every combination
    factors:
      groups:                        # the first level of each factor is the reference
        "8": {}
        "4": {model.args.num_groups: 4}
    tune: {setting: optim.lr, values: [0.001, 0.002, 0.004], seed: 100}    # optional, each cell;
                          # with settings of these runs if they differ: settings: {epochs: 10}
    test: true            # optional: the best and the last weights on the data's own split
    reached: "8"          # optional: a cell, whose result the others may reach earlier

Several grids of one study, with what they have in common; the first is named FILE_models:

    recipe: fashion_mnist
    seeds: [0, 1, 2]
    grids:
      models: {factors: {model: {KAT: {}, ViT: {model.name: vit_mlp_*}}}}
      groups: {title: What do the groups bring?, factors: {model.args.num_groups: [8, 4]}}

A factor that varies a single setting can be a list: ``model.args.num_groups: [8, 4]``. A star in a
level's model.name is replaced by the size of the recipe's KAT: if the recipe trains
``kat_tiny_patch16_224``, then ``vit_mlp_*`` is ``vit_mlp_tiny_patch16_224``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from kat.data.naming import check_unique
from kat.documents import read_yaml
from kat.errors import InputError, unknown
from kat.settings import flat
from kat.training.evaluation.tested_run import TEST_COLUMNS
from kat.training.sweep.grid import Cell, Grid, Tuning
from kat.training.sweep.settings import Settings, merged, nested
from kat.training.tasks.registry import TASKS

_COLUMNS = (
    "cell", "seed", "status", "run", "folder", "parameters", "flops", "seconds", "epochs",
    "best_epoch", "images_per_second", "memory_bytes", "tuned", "title", "settings",
    "epochs_to_reference", "validation_curve", *TEST_COLUMNS,
    *(metric.name for task in TASKS.values() for metric in task.metrics),
)  # fmt: skip
"""The columns of a table of runs besides its factors."""

_KEYS = ("title", "recipe", "settings", "seeds", "vary", "factors", "tune", "test", "reached")


def read_grids(path: Path) -> list[Grid]:
    """Reads the grid of a YAML file, or its several grids.

    Raises:
        InputError: the file cannot be read, or an entry is unknown, missing or of the wrong type.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or "grids" not in content:
        return [_grid(path.stem, str(path), content)]
    common = {name: value for name, value in content.items() if name not in ("title", "grids")}
    grids = content["grids"]
    if not isinstance(grids, dict) or not grids or "factors" in common:
        raise InputError(f"grids of {path} must map names to grids, each with its own 'factors'")
    for name in map(str, grids):
        if name != Path(name).name:
            raise InputError(f"the grid {name!r} of {path} cannot be the name of a file; rename it")
    return [
        _grid(f"{path.stem}_{name}", f"{name} of {path}", _joined(common, own))
        for name, own in grids.items()
    ]


def _joined(common: dict[str, Any], own: Any) -> Any:
    """The entries of one of several grids; its settings are added to the common ones."""
    if not isinstance(own, dict):
        return own
    settings = [entries.get("settings") or {} for entries in (common, own)]
    if not all(isinstance(given, dict) for given in settings):
        return {**common, **own}
    return {**common, **own, "settings": merged(*map(nested, settings))}


def _grid(name: str, where: str, content: Any) -> Grid:
    """The grid of a YAML document; ``where`` names it in messages."""
    if not isinstance(content, dict) or not isinstance(content.get("factors"), dict):
        raise InputError(f"{where} is not a grid: it needs 'factors', each with its levels")
    for key in content:
        if key not in _KEYS:
            raise unknown(f"entry of {where}", str(key), _KEYS)
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(isinstance(s, int) for s in seeds):
        raise InputError(f"seeds of {where} must be a list of whole numbers, got {seeds!r}")
    check_seeds(seeds, f"seeds of {where}")
    recipe = content.get("recipe")
    if recipe is not None and not isinstance(recipe, str):
        raise InputError(f"recipe of {where} must be a name or a path, got {recipe!r}")
    if not content["factors"]:
        raise InputError(f"{where} has no factors")
    for factor in content["factors"]:
        if factor in _COLUMNS:
            raise InputError(
                f"the factor {factor!r} of {where} has the name of a column of the results;"
                " rename it"
            )
    vary = content.get("vary", "all")
    if vary not in ("one", "all"):
        raise InputError(f"vary of {where} must be 'one' or 'all', got {vary!r}")
    check_unique(map(str, content["factors"]), where, "factor", "factors")
    factors = {str(n): _levels(where, str(n), given) for n, given in content["factors"].items()}
    cells = _cells(where, factors, vary)
    test, reached = content.get("test", False), content.get("reached")
    if not isinstance(test, bool):
        raise InputError(f"test of {where} must be true or false, got {test!r}")
    names = [cell.name for cell in cells]
    if reached is not None and _text(reached) not in names:
        raise unknown(f"cell in reached of {where}", _text(reached), names)
    return Grid(
        name=name,
        title=str(content.get("title", name)),
        recipe=recipe,
        settings=nested(_mapping(where, "settings", content.get("settings"))),
        seeds=seeds,
        cells=cells,
        factors=list(factors),
        tune=_tuning(where, content["tune"], cells) if content.get("tune") is not None else None,
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


def _tuning(where: str, given: Any, cells: Sequence[Cell]) -> Tuning:
    entries = _mapping(where, "tune", given)
    if set(entries) - {"settings"} != {"setting", "values", "seed"}:
        raise InputError(
            f"tune of {where} must have setting, values and seed, and may have settings,"
            f" got {given!r}"
        )
    setting, values, seed = entries["setting"], entries["values"], entries["seed"]
    settings = nested(_mapping(where, "tune: settings", entries.get("settings")))
    if not isinstance(setting, str) or type(seed) is not int:
        raise InputError(f"tune of {where} needs the name of a setting and a whole number as seed")
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    if len(numbers) < 2 or None in numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"values of tune of {where} must be two or more numbers, got {values!r}")
    if setting in _COLUMNS:
        raise InputError(f"{where} cannot tune {setting}, the name of a column of the results")
    if setting in flat(settings):
        raise InputError(f"settings of tune of {where} has {setting} itself")
    for cell in cells:
        own = {*cell.levels, *flat(cell.settings)}
        for name in (setting, *flat(settings)):
            if name in own:
                raise InputError(f"{where} cannot tune {name}: the cell {cell.name!r} sets it")
    return Tuning(setting, [number for number in numbers if number is not None], seed, settings)


def _number(value: Any) -> float | None:
    """A number, also one like 1e-3, which YAML takes for text; None if it is something else."""
    if type(value) in (int, float):
        number: float = value
        return number
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _levels(where: str, factor: str, given: Any) -> dict[str, Settings]:
    """The settings of each level."""
    if not isinstance(given, dict | list) or not given:
        raise InputError(f"the factor {factor!r} of {where} must map levels to settings")
    check_unique(map(_text, given), f"the factor {factor!r} of {where}", "level", "levels")
    if isinstance(given, list):
        return {_text(value): nested({factor: value}) for value in given}
    return {
        _text(level): nested(_mapping(where, f"{factor}: {level}", settings))
        for level, settings in given.items()
    }


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | date) else json.dumps(value, default=str)


def _mapping(where: str, what: str, given: Any) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{what} of {where} must map settings to values, got {given!r}")
    return given


def _cells(
    where: str, factors: dict[str, dict[str, Settings]], vary: Literal["one", "all"]
) -> list[Cell]:
    """The cells of a grid.

    Raises:
        InputError: two factors give a setting different values in one cell.
    """
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
            settings=_together(where, factors, dict(zip(names, combination, strict=True))),
        )
        for combination in combinations
    ]


def _together(
    where: str, factors: dict[str, dict[str, Settings]], levels: dict[str, str]
) -> Settings:
    """The settings of the levels, which must not contradict each other."""
    given: dict[str, tuple[Any, str]] = {}
    for factor, level in levels.items():
        for name, value in flat(factors[factor][level]).items():
            other, by = given.setdefault(name, (value, f"{factor}: {level}"))
            if other != value:
                raise InputError(
                    f"{where}: {by!r} and '{factor}: {level}' are in one cell, and give {name} the"
                    f" values {other!r} and {value!r}"
                )
    return merged(*(factors[factor][level] for factor, level in levels.items()))


def _name(names: list[str], levels: list[str], reference: list[str], vary: str) -> str:
    """The levels; if one factor varies at a time, only the level that is not the reference."""
    if len(names) == 1:
        return levels[0]
    pairs = list(zip(names, levels, reference, strict=True))
    if vary == "one":
        pairs = [pair for pair in pairs if pair[1] != pair[2]]
    return ", ".join(f"{name}: {level}" for name, level, _ in pairs) or "reference"
