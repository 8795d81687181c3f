"""Main effects of the factors of a factorial grid, in which every combination of levels is a cell.

For the value y(l, r, s) of level l of a factor, with r the levels of the other factors and s the
seed, and the first level l_0,

    mean of a level             mean over r and s of y(l, r, s)
    main effect of a level      mean over r and s of y(l, r, s) - y(l_0, r, s)

with the intervals of :mod:`kat.analysis.ablation` over the seeds. Only seeds count for which every
cell has a result.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from kat.analysis.ablation import COLUMNS, Comparison, Estimate, Row

Levels = tuple[str, ...]
"""A level of each factor."""


def main_effects(rows: Sequence[Row], measure: str) -> dict[str, list[Comparison]]:
    """The levels of each factor, compared with its first one.

    Args:
        rows: the runs of a grid.
        measure: the column that is compared.

    Returns:
        By factor; empty where the grid is not factorial or no seed is complete.
    """
    factors = _varied(rows)
    cells = math.prod(map(len, factors.values()))
    by_seed = _by_seed(rows, list(factors), measure)
    complete = {seed: values for seed, values in by_seed.items() if len(values) == cells}
    if len(factors) < 2 or not complete:
        return {}
    return {
        factor: _compared(levels, place, complete)
        for place, (factor, levels) in enumerate(factors.items())
    }


def effects_table(
    effects: Mapping[str, Sequence[Comparison]], label: str
) -> tuple[list[str], list[list[str]]]:
    """The column names and the rows of the printed table.

    Args:
        effects: the result of :func:`main_effects`.
        label: the label of the measure.
    """
    rows = [
        [
            factor,
            level.name,
            "-" if level.estimate is None else level.estimate.text(),
            "-" if level.difference is None else level.difference.text(sign=True),
        ]
        for factor, levels in effects.items()
        for level in levels
    ]
    return ["factor", "level", f"mean {label} (%)", "minus the first level"], rows


def _varied(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The levels of each factor that has several, in the order of the rows."""
    known = {*COLUMNS, "folder"}
    names = dict.fromkeys(name for row in rows for name in row if name not in known)
    levels = {name: list(dict.fromkeys(str(row.get(name)) for row in rows)) for name in names}
    return {name: found for name, found in levels.items() if len(found) > 1}


def _by_seed(
    rows: Sequence[Row], factors: Sequence[str], measure: str
) -> dict[int, dict[Levels, float]]:
    """The measure by seed and levels, where there is a result."""
    found: dict[int, dict[Levels, float]] = {}
    for row in rows:
        if row["status"] == "done" and row.get(measure) is not None:
            levels = tuple(str(row[factor]) for factor in factors)
            found.setdefault(row["seed"], {})[levels] = row[measure]
    return found


def _compared(
    levels: Sequence[str], place: int, by_seed: Mapping[int, Mapping[Levels, float]]
) -> list[Comparison]:
    """The levels of the factor at a place, compared with the first one."""
    means = {
        level: {
            seed: statistics.fmean(v for cell, v in values.items() if cell[place] == level)
            for seed, values in by_seed.items()
        }
        for level in levels
    }
    first = means[levels[0]]
    paired = {
        level: [value - first[seed] for seed, value in own.items()] for level, own in means.items()
    }
    return [
        Comparison(
            name=level,
            values=own,
            estimate=Estimate.of(list(own.values())),
            difference=None if level == levels[0] else Estimate.of(paired[level]),
        )
        for level, own in means.items()
    ]
