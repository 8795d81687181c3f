"""Grids of runs: cells, combinations of the levels of factors, each trained with several seeds."""

from __future__ import annotations

from dataclasses import dataclass, field

from kat.training.sweep.settings import Settings


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
        settings: settings of these runs, over the grid's own: fewer epochs, say.
    """

    setting: str
    values: list[float]
    seed: int
    settings: Settings = field(default_factory=dict)


@dataclass
class Grid:
    """A grid of runs; see :func:`kat.training.sweep.grid_file.read_grids`.

    Args:
        name: file name without its extension, and the grid's own name where a file has several.
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
