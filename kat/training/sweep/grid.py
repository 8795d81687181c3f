"""Grids of runs, in YAML files: cells, combinations of levels, each trained with several seeds.

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
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from kat.documents import read_yaml
from kat.errors import InputError, unknown
from kat.settings import flat, merged
from kat.training.evaluation.evaluate import TEST_COLUMNS
from kat.training.record.provenance import PROVENANCE
from kat.training.settings.recipes import nested
from kat.training.tasks.registry import TASKS

Settings = dict[str, Any]
"""Nested settings, as in a recipe."""
_COLUMNS = (
    "cell", "seed", "status", "run", "folder", "parameters", "flops", "seconds", "epochs",
    "best_epoch", "images_per_second", "memory_bytes", "tuned", "title", "settings",
    "epochs_to_reference", "validation_curve", *TEST_COLUMNS, *PROVENANCE,
)  # fmt: skip
"""The columns of a table of runs besides its factors and the metrics of the task."""


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


class Tuning(BaseModel, extra="forbid"):
    """A setting that is chosen for each cell; see :func:`kat.training.sweep.plan.tuned_grid`.

    Args:
        setting: dotted name of the setting.
        values: values that each cell is trained with.
        seed: seed of these runs.
        settings: settings of these runs, over the grid's own: fewer epochs, say.
    """

    setting: str
    values: Annotated[list[int | float], Field(min_length=2)]
    seed: int
    settings: Settings = {}


@dataclass
class Grid:
    """A grid of runs; see :func:`read_grids`.

    Args:
        name: file name without its extension, and the grid's own name where a file has several.
        title: question that the grid answers.
        recipe: name or path of the recipe of all runs, or None.
        settings: settings of all runs, over the recipe's.
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


class _Document(BaseModel, extra="forbid"):
    """A grid as it is written. The levels of a factor are settings by name, or plain values."""

    factors: Annotated[
        dict[Any, Annotated[dict[Any, Settings | None] | list[Any], Field(min_length=1)]],
        Field(min_length=1),
    ]
    title: Any = None
    recipe: str | None = None
    settings: Settings | None = None
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    vary: Literal["one", "all"] = "all"
    tune: Tuning | None = None
    test: bool = False
    reached: Any = None


def read_grids(path: Path) -> list[Grid]:
    """Read the grid of a YAML file, or its several grids.

    Raises:
        InputError: the file cannot be read, or an entry is unknown, missing or of the wrong type.
    """
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("grids"), dict):
        return [_grid(path.stem, str(path), content)]
    common = {name: value for name, value in content.items() if name not in ("title", "grids")}
    found = []
    for name, own in content["grids"].items():
        joined = own
        if isinstance(own, dict):
            shared, extra = common.get("settings") or {}, own.get("settings") or {}
            joined = {**common, **own, "settings": merged(nested(shared), nested(extra))}
        found.append(_grid(f"{path.stem}_{name}", f"{name} of {path}", joined))
    return found


def _grid(name: str, where: str, content: Any) -> Grid:
    """Return the grid of a YAML document; ``where`` names it in messages."""
    try:
        given = _Document.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"])) or "the content"
        problem = InputError(f"{entry} of {where}: {first['msg']}, got {first['input']!r}")
        if first["type"] == "extra_forbidden":
            problem = unknown(f"entry of {where}", entry, _Document.model_fields)
        raise problem from None
    factors = {str(factor): _levels(str(factor), own) for factor, own in given.factors.items()}
    taken = set(_COLUMNS)
    for task in TASKS.values():
        taken |= {metric.name for metric in task.metrics}
    for factor in taken.intersection(factors):
        raise InputError(
            f"the factor {factor!r} of {where} has the name of a column of the results; rename it"
        )
    cells = _cells(where, factors, given.vary)
    reached = None if given.reached is None else _text(given.reached)
    names = [cell.name for cell in cells]
    if reached is not None and reached not in names:
        raise unknown(f"cell in reached of {where}", reached, names)
    if given.tune is not None:
        given.tune.settings = nested(given.tune.settings)
        tuned = {given.tune.setting, *flat(given.tune.settings)}
        for cell in cells:
            for setting in tuned & {*cell.levels, *flat(cell.settings)}:
                raise InputError(f"{where} cannot tune {setting}: the cell {cell.name!r} sets it")
    return Grid(
        name=name,
        title=str(given.title or name),
        recipe=given.recipe,
        settings=nested(given.settings or {}),
        seeds=list(dict.fromkeys(given.seeds)),
        cells=cells,
        factors=list(factors),
        tune=given.tune,
        test=given.test,
        reached=reached,
    )


def _levels(factor: str, given: dict[Any, Settings | None] | list[Any]) -> dict[str, Settings]:
    """Return the settings of each level."""
    if isinstance(given, list):
        return {_text(value): nested({factor: value}) for value in given}
    return {_text(level): nested(settings or {}) for level, settings in given.items()}


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | date) else json.dumps(value, default=str)


def _cells(
    where: str, factors: dict[str, dict[str, Settings]], vary: Literal["one", "all"]
) -> list[Cell]:
    """Return the cells of a grid.

    Raises:
        InputError: two factors give a setting different values in one cell.
    """
    reference: dict[str, str] = {}
    if vary == "all":
        products = itertools.product(*factors.values())
        combinations = [dict(zip(factors, levels, strict=True)) for levels in products]
    else:
        reference = {factor: next(iter(levels)) for factor, levels in factors.items()}
        combinations = [reference]
        for factor, levels in factors.items():
            combinations += [{**reference, factor: level} for level in list(levels)[1:]]
    cells = []
    for combination in combinations:
        settings = _together(where, factors, combination)
        cells.append(Cell(_name(combination, reference), combination, settings))
    return cells


def _together(
    where: str, factors: dict[str, dict[str, Settings]], levels: dict[str, str]
) -> Settings:
    """Return the settings of the levels, which must not contradict each other."""
    given: dict[str, tuple[Any, str]] = {}
    together: Settings = {}
    for factor, level in levels.items():
        together = merged(together, factors[factor][level])
        for name, value in flat(factors[factor][level]).items():
            other, by = given.setdefault(name, (value, f"{factor}: {level}"))
            if other != value:
                raise InputError(
                    f"{where}: {by!r} and '{factor}: {level}' are in one cell, and give {name} the"
                    f" values {other!r} and {value!r}"
                )
    return together


def _name(levels: dict[str, str], reference: dict[str, str]) -> str:
    """Return the levels; of factors varied one at a time, the level that is not the reference."""
    if len(levels) == 1:
        return next(iter(levels.values()))
    other = (f"{name}: {level}" for name, level in levels.items() if reference.get(name) != level)
    return ", ".join(other) or "reference"
