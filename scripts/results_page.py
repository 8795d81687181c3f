"""The tables and figures of docs/results.md, from the tables of runs in benchmarks/results/paper.

    kat ablate paper --out runs/paper --reuse benchmarks/results/paper/*.csv    # what is missing
    python scripts/results_page.py --runs runs/paper    # takes its tables over, then as below
    python scripts/results_page.py                      # the page from the tables that are there

The page has a table between the marks <!-- table of NAME --> and <!-- end of table -->, for each
NAME.csv. GRID_moments is of moments/GRID.csv, the records of the layers in the runs of GRID.csv;
"corrected" are the comparisons on test images whose interval excludes 0, with p values that are
corrected for their number.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from kat.analysis.ablation import CellResult, compared, main_metric, markdown, summarize, table
from kat.analysis.figures.base import save_figure
from kat.analysis.figures.grids import draw_cells, draw_forest
from kat.analysis.runs import Row, read_runs
from kat.files import write_text
from kat.nn.stability import read_rows
from kat.tables import fill_tables, open_table, write_table
from kat.training.evaluation.evaluate import TEST_COLUMNS
from kat.training.sweep.plan import find_grids
from kat.training.tasks.task import Metric

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/paper"
REMOVED = RESULTS / "paper.yaml"
"""The declarations of arms that were removed after their runs."""
PAGE = ROOT / "docs/results.md"
FIGURES = ROOT / "docs/figures/results/paper"
MOMENTS = {"paper_depth": 2, "paper_coefficients": 2, "paper_variance": 4}
"""Grids whose runs record their layers, and how many records of each run are shown."""
RECORDED = (
    "input_variance",
    "output_variance",
    "gain",
    "input_gradient",
    "weight_gradient",
    "numerator_gradient",
)


def main() -> None:
    """Takes over the tables of runs, if asked to, and writes page and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="the --out of 'kat ablate paper'")
    options = parser.parse_args()
    if options.runs is not None:
        take_over(options.runs, RESULTS)
    write_page(RESULTS, PAGE, FIGURES)


def take_over(runs: Path, results: Path) -> None:
    """Copies the tables of runs, and the records of layers of those in :data:`MOMENTS`.

    Records of runs that are made elsewhere are kept, also those that another grid has.
    """
    results.mkdir(parents=True, exist_ok=True)
    for path in sorted(runs.glob("paper_*.csv")):
        write_text(results / path.name, path.read_bytes().decode())
    for name, count in MOMENTS.items():
        path = results / f"{name}.csv"
        if not path.exists():
            continue
        kept: dict[str, list[Row]] = {}
        for grid, as_many in MOMENTS.items():
            kept |= moments(results, grid) if as_many == count else {}
        rows = [
            {**row, "cell": run["cell"]}
            for run in read_runs(path)
            for row in recorded(run, runs, count) or kept.get(run["run"], [])
        ]
        if not rows:
            raise SystemExit(f"no run of {path} has a record of its layers in {runs} or {results}")
        (results / "moments").mkdir(exist_ok=True)
        write_table(results / "moments" / f"{name}.csv", list(rows[0]), rows)


def moments(results: Path, grid: str) -> dict[str, list[Row]]:
    """The records that are there, by run."""
    path = results / "moments" / f"{grid}.csv"
    found: dict[str, list[Row]] = {}
    if path.exists():
        with open_table(path, "the records of the layers") as rows:
            for row in rows:
                found.setdefault(row["run"], []).append(row)
    return found


def recorded(run: Row, runs: Path, count: int) -> list[Row]:
    """The rows of a run's first, last and evenly spaced records, with its cell and seed."""
    path = runs / run["run"] / "stability.csv"
    rows = read_rows(path) if path.exists() else []
    steps = sorted({row["step"] for row in rows})
    if not steps:
        return []
    found = []
    for place in (Fraction(index, count - 1) for index in range(count)):
        step = steps[round(place * (len(steps) - 1))]
        own = [row for row in rows if row["step"] == step]
        names = {name: run[name] for name in ("cell", "seed", "run")}
        names |= {"part": str(place), "step": step}
        found += [
            {**names, "layer": row["layer"], **{name: row.get(name) for name in RECORDED}}
            for row in own
        ]
    return found


def write_page(results: Path, page: Path, figures: Path) -> None:
    """Writes the tables into the page, a figure for each grid, and the forest plot of all."""
    texts: dict[str, str] = {}
    tested: dict[str, list[CellResult]] = {}
    metrics: dict[str, Metric] = {}
    figures.mkdir(parents=True, exist_ok=True)
    for path in sorted(results.glob("paper_*.csv")):
        name = path.stem
        if records := moments(results, name):
            texts[f"{name}_moments"] = moments_table([r for run in records.values() for r in run])
        rows = read_runs(path)
        metric = metrics[name] = compared(main_metric(rows), rows)
        cells = summarize(rows, measure=metric.name)
        columns, lines = table(cells, cells[0].name, metric)
        shared, note = timing(rows, metric)
        titles = [f"{c} (shared)" if shared and c in _SHARED else c for c in columns]
        texts[name] = markdown(titles, lines) + (f"\n{note}\n" if note else "")
        if name.endswith("_tuning"):
            continue
        figure = draw_cells(cells, metric, rows[0].get("title") or name)
        save_figure(figure, figures / f"{name}.svg")
        if metric.name in TEST_COLUMNS:  # the forest has no comparison on validation images
            tested[name] = cells
    if tested:
        grids = [*find_grids(["paper"]), *find_grids([str(REMOVED)])]
        names = dict.fromkeys(grid.name for grid in grids if grid.name in tested)
        ordered = {name.removeprefix("paper_"): tested[name] for name in names}
        figure = draw_forest(ordered, metrics[next(iter(names))])
        save_figure(figure, figures / "forest.svg")
        texts["corrected"] = corrected_table(ordered)
    write_text(page, fill_tables(page.read_text(), texts))


_SHARED = ("images/s", "peak memory")


def timing(rows: Sequence[Row], metric: Metric) -> tuple[bool, str]:
    """Return True if runs shared the machine, by the column runs_at_once; a note on their times."""
    tested = metric.name in TEST_COLUMNS
    done = [row for row in rows if row["status"] == "done" and row.get(metric.name) is not None]
    unknown = {row["cell"] for row in done if not row.get("runs_at_once")}
    known = [int(row["runs_at_once"]) for row in done if row["cell"] not in unknown]
    measured = "seconds, images/s and peak memory" if tested else "seconds"
    if (most := max(known, default=1)) > 1:
        return True, (
            f"Shared: {measured} were measured while up to {most} runs shared the machine, and"
            " slowed each other down."
        )
    if tested and unknown:
        return False, (
            f"It is not recorded how many runs shared the machine while {measured} were measured."
        )
    return False, ""


def corrected_table(grids: Mapping[str, Sequence[CellResult]]) -> str:
    """The differences whose intervals exclude 0, with p values before and after correction."""
    comparisons = []
    for grid, cells in grids.items():
        own = [
            (cell.name, cell.difference)
            for cell in cells
            if cell.difference is not None and not math.isnan(cell.difference.half_width)
        ]
        within = holm([difference.p_value for _, difference in own])
        comparisons += [(grid, *row, p) for row, p in zip(own, within, strict=True)]
    over_all = holm([difference.p_value for _, _, difference, _ in comparisons])
    lines = []
    for (grid, name, difference, within_grid), p in zip(comparisons, over_all, strict=True):
        if difference.p_value < 0.05:
            numbers = (f"{value:.2g}" for value in (difference.p_value, within_grid, p))
            lines.append([grid, name, difference.text(sign=True), *numbers])
    lines.sort(key=lambda line: float(line[3]))
    over_all_of = f"p, Holm over all {len(comparisons)}"
    return markdown(["grid", "cell", "difference", "p", "p, Holm in its grid", over_all_of], lines)


def holm(values: Sequence[float]) -> list[float]:
    """p values after Holm's step-down correction.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def moments_table(rows: Sequence[Row]) -> str:
    """For each cell: gains, the last block's variance, and gradients of the coefficients."""
    parts = list(dict.fromkeys(row["part"] for row in rows))
    names = ["start", *(f"{part} of the run" for part in parts[1:-1]), "end"]
    quantities = {"gain": _gains, "last block": _last_block, "gradient of a": _gradients}
    columns = [f"{quantity}, {name}" for quantity in quantities for name in names]
    lines = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        own = [row for row in rows if row["cell"] == cell]
        at = [[row for row in own if row["part"] == part] for part in parts]
        lines.append([cell, *(show(found) for show in quantities.values() for found in at)])
    return markdown(["cell", *columns], lines)


def _gains(rows: Sequence[Mapping[str, str]]) -> str:
    """The smallest and the largest gain of a GR-KAN layer, over layers and seeds."""
    gains = [float(row["gain"]) for row in rows if ".mlp." in row["layer"]]
    return f"{min(gains):.2g} to {max(gains):.2g}"


def _last_block(rows: Sequence[Mapping[str, str]]) -> str:
    """The variance after the last block, the mean over the seeds."""
    blocks = [row for row in rows if ".mlp." not in row["layer"]]
    last = max(blocks, key=lambda row: int(row["layer"].rpartition(".")[2]))["layer"]
    found = [float(row["output_variance"]) for row in blocks if row["layer"] == last]
    return f"{statistics.fmean(found):.3g}"


def _gradients(rows: Sequence[Mapping[str, str]]) -> str:
    """The largest norm of a rational's gradient over that of its matrix, over layers and seeds."""
    found = [
        float(row["numerator_gradient"]) / float(row["weight_gradient"])
        for row in rows
        if ".mlp." in row["layer"] and row["numerator_gradient"]
    ]
    return f"{max(found):.2g}" if found else ""


if __name__ == "__main__":
    main()
