"""Tuning: one setting of each cell, chosen among the same values, on a seed of its own.

Every cell of a grid is trained with every value on the tuning seed. The value with the best
validation metric is the cell's in all runs of the grid; of equally good ones the first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from kat.errors import InputError
from kat.training.sweep.grid import Cell, Grid, Tuning
from kat.training.sweep.plan import PlannedRun
from kat.training.sweep.settings import merged, nested


def tuning_grid(grid: Grid, tuning: Tuning) -> Grid:
    """The grid GRID_tuning: each cell with each value, on the tuning seed, never tested."""
    return replace(
        grid,
        name=grid.names_of_tables[-1],
        title=f"{grid.title} Tuning of {tuning.setting}",
        seeds=[tuning.seed],
        settings=merged(grid.settings, tuning.settings),
        cells=[_with_value(cell, tuning, value) for cell in grid.cells for value in tuning.values],
        factors=[*grid.factors, tuning.setting],
        tune=None,
        test=False,
        reached=None,
    )


def tuned_grid(grid: Grid, tuning: Tuning, runs: Sequence[PlannedRun]) -> Grid:
    """The grid, each cell with its best value; without cells that have none yet.

    Args:
        grid: the grid.
        tuning: what is tuned.
        runs: the runs of its :func:`tuning_grid`, in its order. A cell with a run that has neither
            finished nor diverged has no value: another call trains that run first.
    """
    count = len(tuning.values)
    cells = []
    for place, cell in enumerate(grid.cells):
        best = _best(runs[place * count : (place + 1) * count])
        if best is not None:
            cells.append(_tuned(cell, tuning, tuning.values[best]))
    return replace(grid, cells=cells)


def check_tuning_seed(grid: Grid, seeds: Sequence[int]) -> None:
    """Checks that the seed that chooses is none of those that are compared.

    Args:
        grid: the grid.
        seeds: the seeds of its runs.

    Raises:
        InputError: it is.
    """
    if grid.tune is not None and grid.tune.seed in seeds:
        raise InputError(
            f"the tuning seed {grid.tune.seed} of {grid.name} must not be one of the seeds that"
            f" are compared, got {list(seeds)}"
        )


def _with_value(cell: Cell, tuning: Tuning, value: float) -> Cell:
    text = json.dumps(value)
    return replace(
        cell,
        name=f"{cell.name}, {tuning.setting}: {text}",
        levels={**cell.levels, tuning.setting: text},
        settings=merged(cell.settings, nested({tuning.setting: value})),
    )


def _tuned(cell: Cell, tuning: Tuning, value: float) -> Cell:
    at_edge = value in (min(tuning.values), max(tuning.values))
    return replace(
        cell,
        settings=merged(cell.settings, nested({tuning.setting: value})),
        tuned=f"{tuning.setting}={json.dumps(value)}{' (edge)' if at_edge else ''}",
    )


def _best(runs: Sequence[PlannedRun]) -> int | None:
    """The place of the best run; None if one is missing, or none has the metric."""
    if not all(run.finished for run in runs):
        return None
    values = {
        place: value
        for place, run in enumerate(runs)
        if run.done and (value := run.validated) is not None
    }
    return max(values, key=values.__getitem__) if values else None
