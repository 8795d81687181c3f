"""``kat ablate``: train a grid of factors and seeds, and compare the cells.

A grid is a YAML file of factors and their levels, or a shipped grid. A cell is a combination of
levels. Every cell is trained with every seed. Finished runs are not repeated, even if they belong
to another grid; repeat an interrupted call to resume it. With 'tune', each cell is first trained
with each value of a setting on another seed (OUT/GRID_tuning.csv), and keeps the best value. The
results are OUT/GRID.csv (one row per run), OUT/GRID.md (mean, 95 % interval, paired difference from
the first cell), OUT/GRID.svg, OUT/GRID.png and the run directories in OUT/runs. Cells are compared
by the first metric of their task (top-1, box AP, mIoU), with 'test: true' on test images.

examples:
  kat ablate components --out runs/ablation
  kat ablate components groups --seeds 0 1 2 3 4 --set epochs=20
  kat ablate components --set data.name=folder:flowers data.image_size=32 model.name=kat_micro
  kat ablate components --seeds 0 1 2 3 4 --out more --reuse runs/ablation/components.csv
  kat ablate my_grid.yaml --dry-run
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kat.cli.errors import FAILED
from kat.cli.options.parser import Parser
from kat.data.folders import left_out
from kat.documents import parse_yaml
from kat.errors import InputError
from kat.files import write_text
from kat.locks import locked
from kat.settings import AUTO, Count
from kat.tables import open_table, print_table
from kat.text import printable, say, say_all, warn
from kat.training.settings.recipes import GRIDS, nested, recipe_names
from kat.training.tasks.declared import Metric

if TYPE_CHECKING:
    from kat.analysis.runs import Row
    from kat.analysis.sweeps import SweepResults
    from kat.training.sweep.grid import Grid
    from kat.training.sweep.launcher import Job
    from kat.training.sweep.plan import PlannedRun

    Plans = dict[str, list[PlannedRun]]
    """The runs of each grid by its name, each seed's together."""


def main(arguments: list[str]) -> int:
    """Train what is missing, and write tables and plots; return 1 if a run failed."""
    options = make_parser().parse_args(arguments)
    import kat.analysis.figures.grids  # what is missing is named before the runs
    from kat.analysis.sweeps import SweepResults, earlier_runs
    from kat.training.sweep.plan import find_grids, tuning_grid

    grids = find_grids(options.grids)
    for grid in grids:
        if options.seeds:
            grid.seeds = list(dict.fromkeys(options.seeds))
        if grid.tune is not None and grid.tune.seed in grid.seeds:
            raise InputError(
                f"the tuning seed {grid.tune.seed} of {grid.name} must not be one of the seeds that"
                f" are compared, got {grid.seeds}"
            )
    earlier = earlier_runs(options.reuse)
    plan = partial(plan_grid, options=options, earlier=earlier)
    plans = {grid.name: plan(grid) for grid in grids}  # of tuned ones a check alone
    tunings = [tuning_grid(grid, grid.tune) for grid in grids if grid.tune]
    tuning = {grid.name: plan(grid) for grid in tunings}
    written = {(options.out / f"{name}.csv").resolve() for name in [*plans, *tuning]}
    for path in options.reuse:
        if path.resolve() in written:  # by a table with other rows
            raise InputError(f"{path} would be overwritten: give another --out")
    if options.dry_run:
        _list(grids, tuning, plan)
        return 0
    out: Path = options.out
    for name in ("runs", "logs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    results = SweepResults(out)
    with locked(out / ".lock"):
        if tuning:
            _train(tuning, options, results, lambda: _keep(tuning, results, out))
        chosen = [_tuned(grid, tuning) for grid in grids]
        plans |= {grid.name: plan(grid) for grid in chosen if grid.tune}
        _train(plans, options, results, lambda: _keep(plans, results, out))
    untuned: list[str] = []
    for grid, tuned in zip(grids, chosen, strict=True):
        untuned += _untuned(grid, tuned, out)
        planned = plans[tuned.name]
        if planned:
            _report(tuned, results.rows(planned), planned[0].metric, out)
    runs = list(chain.from_iterable(plans.values()))
    if not options.quiet:
        say_all(left_out(_skipped(runs)))
    for folder, error in results.errors.items():
        warn(f"kat: the run in {folder} failed: {error}")
    missing = {run.folder for run in runs if not run.done}
    for folder in sorted(missing - set(results.errors)):
        why = kat.training.read_divergence(folder) or "it diverged, according to a table of --reuse"
        warn(f"kat: the run in {folder} has no result: {why}")
    return FAILED if results.errors or missing or untuned else 0


def make_parser() -> Parser:
    """Return the parser of ``kat ablate``."""
    parser = Parser(__doc__, "GRID...", epilog=f"shipped grids: {', '.join(recipe_names(GRIDS))}")
    add = parser.add
    add(
        "grids",
        nargs="+",
        metavar="GRID",
        help="a shipped grid, or a YAML file; FILE:GRID: one of its grids",
    )
    parser.add_folder("--out", "folder of results and runs", default=Path("runs/ablation"))
    add("--seeds", nargs="+", type=int, metavar="N", help="seeds, instead of the grids' own")
    add(
        "--set",
        nargs="+",
        action="extend",
        metavar="NAME=VALUE",
        help="settings of all runs, over the recipe and the grid's own settings",
    )
    add(
        "--jobs",
        type=Count,
        metavar="N",
        help="runs at once (default: one per GPU, or as many as the cores allow)",
    )
    add("--threads", type=Count, default=1, metavar="N", help="threads of each run on the CPU")
    add(
        "--reuse",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="TABLE",
        help="tables (GRID.csv) of earlier calls: their rows are taken over, not trained again",
    )
    add("--dry-run", action="store_true", help="list the runs, and train nothing")
    parser.add_common("--progress")
    return parser


def plan_grid(
    grid: Grid, options: Namespace, earlier: Mapping[str, Row] | None = None
) -> list[PlannedRun]:
    """Return all runs of a grid, as the options say, with their rows in earlier tables."""
    from kat.analysis.sweeps import with_earlier
    from kat.models.checkpoints.model_record import check_arguments
    from kat.training.sweep.plan import plan_runs

    overrides = nested(dict(map(_setting, options.set or [])))
    runs = plan_runs(grid, overrides, options.out)
    for model in (run.job.config.model for run in runs):
        if model.name != AUTO:
            check_arguments(model.name, model.args)
    return with_earlier(runs, earlier or {})


def _tuned(grid: Grid, tuning: Plans) -> Grid:
    """Return the grid, each cell with the value that its tuning runs have chosen."""
    from kat.training.sweep.plan import tuned_grid

    if grid.tune is None:
        return grid
    return tuned_grid(grid, grid.tune, tuning[grid.names_of_tables[-1]])


def _untuned(grid: Grid, tuned: Grid, out: Path) -> list[str]:
    """Warn of the cells for which no value could be chosen, and return their names."""
    left = [cell.name for cell in tuned.cells]
    missing = [cell.name for cell in grid.cells if cell.name not in left]
    for name in missing:
        table = out / f"{grid.names_of_tables[-1]}.csv"
        warn(f"kat: the cell {name!r} of {grid.name} has no tuned value: see {table}")
    return missing


def _skipped(runs: Iterable[PlannedRun]) -> dict[str, str]:
    """Return the files that the runs left out, each with the reason."""
    from kat.training.record.run_directory import SKIPPED

    found: dict[str, str] = {}
    for path in sorted({run.folder / SKIPPED for run in runs}):
        if path.is_file():
            with open_table(path, "a table of skipped files") as rows:
                found |= {row["file"]: row["reason"] for row in rows}
    return found


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set takes NAME=VALUE, got {text!r}")
    return name, parse_yaml(value, f"--set {name}")


def _train(
    plans: Plans, options: Namespace, results: SweepResults, keep: Callable[[], None]
) -> None:
    """Make the runs that are not finished, each once, and keep the results after each."""
    from kat.training.sweep.launcher import run_jobs, slots

    planned = list(chain.from_iterable(plans.values()))
    runs = {run.folder: run for run in planned}
    runs |= {run.folder: run for run in planned if run.job.test}  # in one of its grids
    if (taken := sum(run.earlier is not None for run in runs.values())) and not options.quiet:
        say(f"{taken} of {len(runs)} runs are taken from earlier tables")
    todo = [run.job for run in runs.values() if not run.finished]
    console = Console(quiet=options.quiet)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not options.progress or not console.is_terminal,
    ) as bar:
        task = bar.add_task("runs", total=len(runs), completed=len(runs) - len(todo))

        def tell(verb: str, job: Job, more: str = "") -> None:
            run = runs[Path(job.config.out)]
            line = f"{verb} {run.cell.name}, seed {run.seed}{more}"
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

        def ended(job: Job, error: str) -> None:
            folder = Path(job.config.out)
            if error:
                results.errors[folder] = error
            keep()
            bar.advance(task)
            tell("ended  ", job, f": {error or _result(runs[folder])}")

        keep()
        on_cpu = all(job.config.accelerator == "cpu" for job in todo)
        at_once = slots(options.jobs, options.threads, on_cpu=on_cpu)
        run_jobs(todo, at_once, options.threads, lambda job: tell("started", job), ended)


def _result(run: PlannedRun) -> str:
    metric, value = run.metric, run.validated
    return f"no {metric.label}" if value is None else f"{metric.label} {value:{metric.format}} %"


def _keep(plans: Plans, results: SweepResults, out: Path) -> None:
    from kat.analysis.runs import write_runs

    for name, runs in plans.items():
        write_runs(results.rows(runs), out / f"{name}.csv")


def _report(grid: Grid, rows: Sequence[Row], metric: Metric, out: Path) -> None:
    """Print the tables of a grid, and write them and its plots."""
    from kat.analysis.ablation import compared, markdown, summarize, table
    from kat.analysis.figures.base import save_figure
    from kat.analysis.figures.grids import draw_cells

    reference, metric = grid.cells[0].name, compared(metric, rows)
    found = summarize(rows, reference, metric.name)
    head, lines = table(found, reference, metric)
    say(grid.title)
    print_table(head, lines)
    write_text(out / f"{grid.name}.md", f"# {grid.title}\n\n{markdown(head, lines)}")
    for ending in ("svg", "png"):
        save_figure(draw_cells(found, metric, grid.title), out / f"{grid.name}.{ending}")
    say(f"{out / grid.name}: .csv, .md, .svg, .png")


def _list(grids: Sequence[Grid], tuning: Plans, plan: Callable[[Grid], list[PlannedRun]]) -> None:
    """List tuning runs, and the runs of the grids whose values are known."""
    for grid in grids:
        tuned, name = _tuned(grid, tuning), grid.names_of_tables[-1]
        known = {name: tuning[name]} if grid.tune else {}
        if len(tuned.cells) == len(grid.cells):
            known[grid.name] = plan(tuned)
        for name, runs in known.items():
            for run in runs:
                state = "finished" if run.finished else "to do"
                say(f"{name}: {run.cell.name}, seed {run.seed}: {state}")
        if grid.tune and grid.name not in known:
            say(f"{grid.name}: its runs follow from these, with the best {grid.tune.setting}")
