"""``kat ablate``: trains a grid of factors and seeds, and says what each factor brings."""

from __future__ import annotations

import json
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kat.analysis import count
from kat.analysis.ablation import MEASURES, Row, markdown, summarize, table, write_runs
from kat.analysis.figures.ablation import plot_cells
from kat.cli.parsing import FAILED, Parser, check_keys, read_recipe, recipe_path, run_command
from kat.cli.train import make_training_parser
from kat.data import task_of_data
from kat.errors import InputError, first_line, unknown
from kat.files import write_text
from kat.models import load_model
from kat.tables import print_table
from kat.training import TrainConfig, read_divergence
from kat.training.config import check
from kat.training.run_directory import SUMMARY
from kat.training.sweep.grid import (
    OF_ONE_CALL,
    Cell,
    Grid,
    Settings,
    check_seeds,
    dotted,
    fingerprint,
    merged,
    nested,
    read_grid,
    settings_of,
    with_model_of_size,
)
from kat.training.sweep.launcher import Job, Outcome, run_jobs, slots

_DESCRIPTION = """Trains every cell of a grid with every seed, and compares them.

A grid is a YAML file of factors and their levels; ready-made ones are {grids}.
Runs that are finished are never made again, also where another grid has the same run; a call that
was stopped, in whatever way, goes on where it was when it is made again. Results are OUT/GRID.csv
(a row a run), OUT/GRID.md (mean, 95 % interval, paired difference from the first cell), GRID.svg
and GRID.png; OUT/runs has the folders of the runs, which every other command takes.

examples:
  kat ablate components --out runs/ablation
  kat ablate components groups --seeds 0 1 2 3 4 --set epochs=20
  kat ablate components --set data.name=folder:/data/flowers model.name=kat_tiny_patch16_224
  kat ablate my_grid.yaml --dry-run
"""


@dataclass
class Run:
    """One run of a grid: a cell with a seed, and the job that makes it."""

    cell: Cell
    seed: int
    job: Job

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.job.config.out)

    @property
    def done(self) -> bool:
        """Whether it has a result."""
        return (self.folder / SUMMARY).is_file()

    @property
    def finished(self) -> bool:
        """Whether it is done, or diverged, which it would do again."""
        return self.done or read_divergence(self.folder) is not None


Plans = dict[str, list[Run]]
"""The runs of each grid by its name, each seed's together."""


def main(arguments: list[str]) -> int:
    """Trains what is missing, and writes tables and plots."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    parsed = make_parser().parse_args(arguments)
    for name in ("jobs", "threads"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, got {value}")
    check_seeds(parsed.seeds or [], "--seeds")
    grids = _read_all(parsed.grids)
    plans = {grid.name: _plan(grid, parsed) for grid in grids}
    if parsed.dry_run:
        _list(plans)
        return 0
    out = Path(parsed.out)
    for name in ("runs", "logs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    results = Results(out)
    try:
        with FileLock(out / ".lock", timeout=0):
            _train(plans, parsed, results, lambda: _keep(plans, results, out))
    except Timeout:
        raise InputError(f"another kat ablate is at work in {out}; give another --out") from None
    for grid in grids:
        _report(grid, results.rows(plans[grid.name]), out)
    for folder, error in results.errors.items():
        sys.stderr.write(f"kat: the run in {folder} failed: {error}\n")
    missing = {r.folder for runs in plans.values() for r in runs if not r.done}
    for folder in sorted(missing - set(results.errors)):
        sys.stderr.write(f"kat: the run in {folder} has no result: {read_divergence(folder)}\n")
    return FAILED if results.errors or missing else 0


class Results:
    """What the runs have given, each read once.

    Args:
        out: the folder that holds them.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.errors: dict[Path, str] = {}
        """Of the runs that failed in this call."""
        self._measured: dict[Path, Row] = {}

    def rows(self, runs: Sequence[Run]) -> list[Row]:
        """A row for each run that is finished or has failed, cell by cell, in the grid's order."""
        places = {run.cell.name: place for place, run in reversed(list(enumerate(runs)))}
        ordered = sorted(runs, key=lambda run: places[run.cell.name])
        return [self._row(r) for r in ordered if r.finished or r.folder in self.errors]

    def _row(self, run: Run) -> Row:
        if run.folder not in self._measured:
            self._measured[run.folder] = self._measure(run.folder)
        settings = settings_of(run.job.config)
        return {
            "cell": run.cell.name,
            "seed": run.seed,
            **self._measured[run.folder],
            "run": run.folder.relative_to(self.out).as_posix(),
            **run.cell.levels,
            "settings": json.dumps(settings, sort_keys=True),
        }

    def _measure(self, folder: Path) -> Row:
        try:
            return measure(folder)
        except (InputError, KeyError, OSError, ValueError) as error:
            self.errors[folder] = f"its results cannot be read: {first_line(error)}"
            return {"status": "failed"}


def measure(folder: Path) -> Row:
    """What the run in a folder has given: the columns of its row that come from running it."""
    if not (folder / SUMMARY).is_file():
        return {"status": "failed" if read_divergence(folder) is None else "diverged"}
    summary = json.loads((folder / SUMMARY).read_text())
    model, record = load_model(folder)
    flops = count(model, record.input_size).flops
    kept = {name: summary[name] for name in (*MEASURES, "epochs") if name in summary}
    return {"status": "done", **kept, "flops": flops}


def make_parser() -> Parser:
    """The parser of ``kat ablate``."""
    parser = Parser(
        prog="kat ablate",
        description=_DESCRIPTION.format(grids=", ".join(grid_names())),
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("grids", nargs="+", metavar="GRID", help="a ready-made grid, or a YAML file")
    add("--out", default="runs/ablation", help="folder for results and runs (default: %(default)s)")
    add("--seeds", nargs="+", type=int, help="these seeds instead of the grids' own")
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="settings of all runs, over the recipe's",
    )
    add("--jobs", type=int, help="runs at once (default: one a GPU, or as the cores allow)")
    add("--threads", type=int, default=1, help="of each run, on the CPU (default: %(default)s)")
    add("--dry-run", action="store_true", help="list the runs, and train nothing")
    add("--no-progress", action="store_true", help="no progress bar")
    return parser


def grid_names() -> list[str]:
    """The grids that the package ships."""
    names = (path.name for path in files("kat.recipes.grids").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _read_all(names: Sequence[str]) -> list[Grid]:
    grids = [_read(name) for name in names]
    called = [grid.name for grid in grids]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise InputError(f"two grids are named {twice[0]!r}, and would write the same files")
    return grids


def _read(name: str) -> Grid:
    if Path(name).is_file():
        return read_grid(Path(name))
    if name not in grid_names():
        raise unknown("grid (nor is there a file of this name)", name, grid_names())
    return read_grid(Path(str(files("kat.recipes.grids") / f"{name}.yaml")))


def _plan(grid: Grid, parsed: Namespace) -> list[Run]:
    """All runs of a grid, each seed's together, so that a part of them compares all cells."""
    out = Path(parsed.out)
    recipe = read_recipe(recipe_path(grid.recipe)) if grid.recipe else {}
    given = nested(dict(map(_setting, parsed.set or [])))
    base = merged(recipe, given)
    parser = make_training_parser("kat train", "")
    runs = []
    for seed in parsed.seeds or grid.seeds:
        for cell in grid.cells:
            what = f"the cell {cell.name!r} of {grid.name}"
            _check_settings(cell, given, what)
            content = merged(base, cell.settings, {"seed": seed})
            check_keys(content, what, TrainConfig)
            config = _config(parser, with_model_of_size(content, base))
            if task_of_data(config.data.name) != "classification":
                raise InputError(f"{what}: {config.data.name} is not data for classification")
            key = f"{config.model.name}-{fingerprint(config)}"
            job = Job(replace(config, out=str(out / "runs" / key)), out / "logs" / f"{key}.log")
            runs.append(Run(cell, seed, job))
    _check_cells(grid, runs)
    return runs


def _check_settings(cell: Cell, given: Settings, what: str) -> None:
    """Refuses what is not a run's, or would not be trained, and --set over what a cell is about."""
    own, over = dotted(cell.settings), dotted(given)
    for name in (*own, *over):
        if name in OF_ONE_CALL:
            raise InputError(
                f"{what} may not set {name}: seeds and folders are the grid's, and a run that is"
                " cut short is another one; give epochs or limit_train_batches"
            )
    if over.get("monitor.enabled") or own.get("monitor.enabled"):
        raise InputError("monitor.enabled: 'kat stability' watches a single run")
    star = "*" in str(own.get("model.name", ""))
    for name in own.keys() & over.keys() - ({"model.name"} if star else set()):
        raise InputError(f"--set {name} would overrule what {what} is about")


def _check_cells(grid: Grid, runs: Sequence[Run]) -> None:
    """Refuses cells that are the same run, such as those of a factor that --set has overruled."""
    cells: dict[Path, str] = {}
    for run in runs:
        other = cells.setdefault(run.folder, run.cell.name)
        if other != run.cell.name:
            raise InputError(
                f"the cells {other!r} and {run.cell.name!r} of {grid.name} have the same settings"
            )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, got {text!r}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set {name}: {value!r} is not a value as YAML spells it") from None


def _config(parser: Parser, content: dict[str, Any]) -> TrainConfig:
    parsed = vars(parser.instantiate(parser.parse_object(content)))
    config = TrainConfig(**{field.name: parsed[field.name] for field in fields(TrainConfig)})
    check(config)
    return config


def _train(plans: Plans, parsed: Namespace, results: Results, keep: Callable[[], None]) -> None:
    """Makes the runs that are not finished, each once, and keeps the results after each."""
    runs = {run.folder: run for planned in plans.values() for run in planned}
    todo = [run.job for run in runs.values() if not run.finished]
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    disabled = parsed.no_progress or not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=disabled) as bar:
        task = bar.add_task("runs", total=len(runs), completed=len(runs) - len(todo))

        def say(verb: str, job: Job, more: str = "") -> None:
            run = runs[Path(job.config.out)]
            line = f"{verb} {run.cell.name}, seed {run.seed}{more}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        def ended(outcome: Outcome) -> None:
            folder = Path(outcome.job.config.out)
            if outcome.error:
                results.errors[folder] = outcome.error
            keep()
            bar.advance(task)
            said = outcome.error or f"top-1 {_top1(folder):.2f} %"
            say("ended  ", outcome.job, f": {said}")

        keep()
        on_cpu = all(job.config.accelerator == "cpu" for job in todo)
        at_once = slots(parsed.jobs, parsed.threads, on_cpu=on_cpu)
        run_jobs(todo, at_once, parsed.threads, lambda job: say("started", job), ended)


def _top1(folder: Path) -> float:
    return json.loads((folder / SUMMARY).read_text())["top1"]


def _keep(plans: Plans, results: Results, out: Path) -> None:
    for name, runs in plans.items():
        write_runs(results.rows(runs), out / f"{name}.csv")


def _report(grid: Grid, rows: Sequence[Row], out: Path) -> None:
    """Prints the table of a grid, and writes it and its plots."""
    reference = grid.cells[0].name
    found = summarize(rows, reference)
    head, lines = table(found, reference)
    write_text(out / f"{grid.name}.md", f"# {grid.title}\n\n{markdown(head, lines)}")
    sys.stdout.write(f"{grid.title}\n")
    print_table(head, lines)
    for ending in ("svg", "png"):
        plot_cells(found, grid.title, out / f"{grid.name}.{ending}")
    sys.stdout.write(f"{out / grid.name}: .csv, .md, .svg, .png\n")


def _list(plans: Plans) -> None:
    for name, runs in plans.items():
        for run in runs:
            state = "finished" if run.finished else "to do"
            sys.stdout.write(f"{name}: {run.cell.name}, seed {run.seed}: {state}\n")
