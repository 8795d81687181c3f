"""The runs of a grid: their settings, their run directories, and which of them are finished.

A setting can be tuned: every cell of a grid is trained with every value on the tuning seed. The
value with the best validation metric is the cell's in all runs of the grid; of equally good ones
the first.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kat.data import task_of_data
from kat.errors import InputError, unknown
from kat.settings import flat, merged
from kat.training.callbacks.divergence import read_divergence
from kat.training.config import TrainConfig
from kat.training.record.run_directory import read_summary, settings_to_keep, unlike_default
from kat.training.settings.recipes import GRIDS, config_from, nested, read_recipe, recipe_path
from kat.training.sweep.grid import Cell, Grid, Settings, Tuning, read_grids
from kat.training.sweep.launcher import Job
from kat.training.tasks.declared import Metric
from kat.training.tasks.registry import TASKS

REPORTING = ("out", "log_every_n_steps", "loggers")
"""Settings of the run directory and of logging, which do not change the result of a run."""

OF_ONE_CALL = {"out", "seed", "resume", "overwrite", "limit_epochs", "max_steps", "max_time"}
"""Settings that a grid may not contain: the grid sets them, or they belong to a single call."""


@dataclass
class PlannedRun:
    """One run of a grid: a cell with a seed, and the job that trains it.

    Args:
        title: title of the grid.
        cell: the cell of the grid.
        seed: seed of the run.
        job: the job that trains it.
        reached: name of the cell whose result is to be reached, or None.
        earlier: its row in a table of an earlier sweep, or None; with one, it is not trained again.
    """

    title: str
    cell: Cell
    seed: int
    job: Job
    reached: str | None = None
    earlier: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.job.config.out)

    @property
    def metric(self) -> Metric:
        """The main metric of its task."""
        return TASKS[task_of_data(self.job.config.data.name)].metrics[0]

    @property
    def done(self) -> bool:
        """Return True if the run has a result."""
        return self.job.trained or (self.earlier is not None and self.earlier["status"] == "done")

    @property
    def finished(self) -> bool:
        """Return True if the run has all results, or has diverged and would diverge again."""
        if self.job.done or self.earlier is not None:
            return True
        return not self.job.trained and read_divergence(self.folder) is not None

    @property
    def validated(self) -> float | None:
        """The main metric of a run that is done; None if the run has no finite one."""
        if self.earlier is not None:
            return self.earlier[self.metric.name]
        value: float | None = read_summary(self.folder)[self.metric.name]
        return value


def find_grids(names: Sequence[str]) -> list[Grid]:
    """Read grids.

    Args:
        names: each the path of a YAML file or the name of a built-in one; with ``:GRID`` behind it,
            one of its grids.

    Raises:
        InputError: a grid does not exist, or two grids have the same name.
    """
    grids: list[Grid] = []
    for name in names:
        grids += _find(name)
    tables = list(itertools.chain.from_iterable(grid.names_of_tables for grid in grids))
    for table in tables:
        if tables.count(table) > 1:
            raise InputError(f"two grids are named {table!r} and would write the same files")
    return grids


def _find(name: str) -> list[Grid]:
    file, colon, own = name.rpartition(":")
    if not colon or Path(name).is_file():
        file, own = name, ""
    path = Path(recipe_path(file, "grid", GRIDS))
    grids = {grid.name.removeprefix(f"{path.stem}_"): grid for grid in read_grids(path)}
    if own and own not in grids:
        raise unknown(f"grid of {file}", own, grids)
    return [grids[own]] if own else list(grids.values())


def plan_runs(
    grid: Grid,
    overrides: Settings,
    out: Path,
) -> list[PlannedRun]:
    """Plan all runs of a grid.

    All runs of one seed come before the runs of the next, so that an unfinished sweep already
    compares all cells.

    Args:
        grid: the grid.
        overrides: settings of all runs that override the recipe and the grid.
        out: output folder of the sweep.

    Raises:
        InputError: a cell sets a setting that the grid sets itself, an override sets a setting of
            a cell, cells are of different tasks, or a tested one is validated on the test images.
    """
    base = merged(read_recipe(grid.recipe), grid.settings, overrides)
    runs = []
    for seed, cell in itertools.product(grid.seeds, grid.cells):
        name = f"the cell {cell.name!r} of {grid.name}"
        own, over = flat(cell.settings), flat(overrides)
        for setting in OF_ONE_CALL & {*flat(grid.settings), *own, *over}:
            raise InputError(
                f"{name} may not set {setting}: the grid sets seeds and run directories;"
                " to shorten its runs, set epochs or limit_train_batches"
            )
        if "*" in str(own.get("model.name", "")):  # its size is that of the model that is set
            del own["model.name"]
        for setting in own.keys() & over.keys():
            raise InputError(f"--set {setting} would override a setting of {name}")
        content = merged(base, cell.settings, {"seed": seed})
        config = config_from(with_model_of_size(content, base), f"{name}: ")
        if grid.test and config.data.validate_on != "holdout":
            raise InputError(
                f"test: true of {grid.name} needs data.validate_on=holdout in {name}, so that"
                " test images choose neither epochs nor settings"
            )
        key = f"{config.model.name}-{fingerprint(config)}"
        config = replace(config, out=str(out / "runs" / key))
        job = Job(config, out / "logs" / f"{key}.log", grid.test)
        runs.append(PlannedRun(grid.title, cell, seed, job, grid.reached))
    metrics = {run.metric.name: run for run in runs}
    if len(metrics) > 1:
        each = ", ".join(f"{run.cell.name!r} by {run.metric.label}" for run in metrics.values())
        raise InputError(f"the cells of {grid.name} must be of one task to be compared: {each}")
    return runs


def tuning_grid(grid: Grid, tuning: Tuning) -> Grid:
    """Return the grid GRID_tuning: each cell with each value, on the tuning seed, never tested."""
    cells = []
    for cell, value in itertools.product(grid.cells, tuning.values):
        text = json.dumps(value)
        name = f"{cell.name}, {tuning.setting}: {text}"
        levels = {**cell.levels, tuning.setting: text}
        settings = merged(cell.settings, nested({tuning.setting: value}))
        cells.append(Cell(name, levels, settings))
    return replace(
        grid,
        name=grid.names_of_tables[-1],
        title=f"{grid.title} Tuning of {tuning.setting}",
        seeds=[tuning.seed],
        settings=merged(grid.settings, tuning.settings),
        cells=cells,
        factors=[*grid.factors, tuning.setting],
        tune=None,
        test=False,
        reached=None,
    )


def tuned_grid(grid: Grid, tuning: Tuning, runs: Sequence[PlannedRun]) -> Grid:
    """Return the grid, each cell with its best value; without cells that have none yet.

    Args:
        grid: the grid.
        tuning: what is tuned.
        runs: the runs of its :func:`tuning_grid`, in its order. A cell with a run that has neither
            finished nor diverged has no value: another call trains that run first.
    """
    count = len(tuning.values)
    cells = []
    for place, cell in enumerate(grid.cells):
        own = runs[place * count : (place + 1) * count]
        done = [(run, v) for run, v in zip(own, tuning.values, strict=True) if run.done]
        found = [(run.validated, v) for run, v in done if run.validated is not None]
        if not found or not all(run.finished for run in own):
            continue
        _, value = max(found, key=lambda pair: pair[0])
        edge = " (edge)" if value in (min(tuning.values), max(tuning.values)) else ""
        settings = merged(cell.settings, nested({tuning.setting: value}))
        tuned = f"{tuning.setting}={json.dumps(value)}{edge}"
        cells.append(replace(cell, settings=settings, tuned=tuned))
    return replace(grid, cells=cells)


def with_model_of_size(content: Settings, base: Settings) -> Settings:
    """Replace a star in model.name by the size of the base's KAT.

    Args:
        content: settings of a cell, merged into the base.
        base: settings that all cells share.

    Raises:
        InputError: the name has a star, but the base's model is not a KAT.
    """
    name, kat = (str(flat(settings).get("model.name", "")) for settings in (content, base))
    if "*" not in name:
        return content
    if not kat.startswith("kat_"):
        raise InputError(
            f"model.name={name} needs the size of a kat_* model, but the grid has {kat!r}"
        )
    return merged(content, {"model": {"name": name.replace("*", kat.removeprefix("kat_"))}})


def settings_of(kept: Settings) -> Settings:
    """Return the settings that determine the result of a run and differ from the defaults.

    They do not change when a new setting with a default is added. The run directory and the
    settings of logging are left out.

    Args:
        kept: the settings of a run, as run.yaml has them.
    """
    own = unlike_default(kept)
    return nested({name: value for name, value in own.items() if name not in REPORTING})


def fingerprint(config: TrainConfig) -> str:
    """Return a hash of :func:`settings_of` a run: twelve hexadecimal digits."""
    text = json.dumps(settings_of(settings_to_keep(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
