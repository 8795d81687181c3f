"""The tables of the pages in docs/results/, and the figures of them and of docs/results.md.

    kat ablate paper --out runs/paper --reuse benchmarks/results/paper/*.csv    # what is missing
    python scripts/results_page.py --runs runs/paper    # takes its tables over, then as below
    python scripts/results_page.py                      # the pages from the tables that are there

A page has a table between the marks <!-- table of NAME --> and <!-- end of table -->, for each
NAME.csv. GRID_moments is of moments/GRID.csv, the records of the layers in the runs of GRID.csv;
"declared" and "families" are the two analyses of the differences on test images. A table with a run
that its grid does not declare is refused; runs that it lacks are named below it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from scipy.stats import dunnett, pearsonr, ttest_ind

from kat.analysis.ablation import (
    CellResult,
    Estimate,
    compared,
    main_metric,
    markdown,
    summarize,
    table,
)
from kat.analysis.figures.base import save_figure
from kat.analysis.figures.grids import draw_cells, draw_forest
from kat.analysis.runs import Row, read_runs
from kat.analysis.sweeps import earlier_runs, with_earlier
from kat.errors import InputError
from kat.files import write_text
from kat.nn.stability import read_rows
from kat.tables import open_table, write_table
from kat.training.evaluation.evaluate import TEST_COLUMNS
from kat.training.record.run_directory import settings_to_keep
from kat.training.sweep.grid import Grid
from kat.training.sweep.plan import (
    PlannedRun,
    find_grids,
    plan_runs,
    settings_of,
    tuned_grid,
    tuning_grid,
)

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/paper"
REMOVED = ROOT / "benchmarks/results/paper/paper.yaml"
"""The declarations of arms that were removed after their runs."""
PAGES = [*(ROOT / "docs/results").glob("*.md"), ROOT / "benchmarks/results/comparisons.md"]
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
INCOMPARABLE = ("seconds per run", "images/s", "peak memory")
"""Columns of ``kat ablate`` that the pages leave out: the runs shared the machine."""
IN_ROWS = ("test loss", "ECE", "parameters", "FLOPs per image")
"""Columns that only the rows have: the pages say what matters of them."""


class Family(NamedTuple):
    """The comparisons that answer one question: differences of cells of a grid from one of them."""

    question: str
    grid: str
    reference: str
    others: dict[str, str]
    """By the name that figure and table have, the name of the cell."""
    minus_reference: bool = False
    """Differences are the other minus the reference, not the reference minus the other."""
    drawn: bool = True
    """Whether the forest plot has them."""


_DEPTH = "init: {}, depth: {}, norm: {}"
FAMILIES = (
    Family("KAT minus another model: 20 epochs, one initialization, 5 seeds", "models", "KAT", {
        "ViT with GELU (primary)": "ViT (GELU)",
        "ViT with SwiGLU": "ViT (SwiGLU)",
        "ViT with B-spline KAN, as many parameters": "ViT + KAN",
        "gated KAT": "KAT (gated)",
    }),
    Family("KAT minus a ViT, usual initialization: 20 epochs, 3 seeds", "own_init", "KAT", {
        "ViT with GELU, usual initialization": "ViT (GELU)",
        "ViT with SwiGLU, usual initialization": "ViT (SwiGLU)",
    }),
    Family("KAT minus a ViT: 60 epochs, one initialization, 3 seeds", "long", "KAT", {
        "ViT with GELU, 60 epochs": "ViT (GELU)",
    }),
    Family("KAT minus another model: 1,797 handwritten digits, 5 seeds", "digits", "KAT", {
        "ViT with GELU, digits": "ViT (GELU)",
        "ViT with GELU, usual initialization, digits": "ViT (GELU), its own initialization",
        "gated KAT with 4 groups, digits": "kat2",
    }),
    Family("KAT minus a KAT that is changed: 20 epochs, 3 seeds", "components", "KAT", {
        "functions fixed at SiLU": "rationals frozen",
        "SiLU in place of rationals": "no rationals (SiLU)",
        "a function for each channel": "no grouping, nothing shared",
        "the released code's initialization": "no variance-preserving init",
        "usual initialization of attention, not mimetic": "no mimetic attention",
        "no rational before fc1": "no first rational",
        "all of this: a ViT with SiLU": "none of them (ViT, SiLU)",
    }),
    Family("KAT with 8 groups minus KAT with: 3 seeds", "groups", "8", {
        "1 group": "1", "4 groups": "4", "16 groups": "16",
    }),
    Family("ViT with one GR-KAN MLP minus the ViT: 3 seeds", "blocks", "none", {
        "block 1": "first", "block 2": "second", "block 3": "third", "block 4": "fourth",
    }, minus_reference=True),
    *(
        Family(f"The paper's initialization minus another: {depth}, {norm}", "depth", paper, {
            f"{title}, {depth}, {norm}": _DEPTH.format(name, depth, norm)
            for name, title in (("published", "the released code's"), ("centered", "centered"))
        }, drawn=False)
        for depth, norm in (("4 blocks", "norm"), ("4 blocks", "no norm"), ("24 blocks", "norm"))
        for paper in [_DEPTH.format("paper's", depth, norm)]
    ),
    Family("KAT minus the winner of a search", "kat2", "KAT", {
        "a gated KAT with 4 groups (kat2)": "kat2",
    }, drawn=False),
    Family("KAT minus a ViT with SiLU, usual initialization, twice the rate", "components_rate",
           "KAT", {"SiLU, rate 0.004": "ViT (SiLU), 0.004"}, drawn=False),
)  # fmt: skip


def main() -> None:
    """Takes over the tables of runs, if asked to, and writes pages and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="the --out of 'kat ablate paper'")
    options = parser.parse_args()
    try:
        if options.runs is not None:
            read_tables(options.runs)  # before the tables that are there are replaced
            take_over(options.runs, RESULTS)
        write_pages(RESULTS, PAGES, FIGURES)
    except InputError as error:
        raise SystemExit(str(error)) from None


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


def declared(results: Path) -> dict[str, dict[tuple[str, int], str]]:
    """The settings of the declared runs, as their rows have them, by table and by cell and seed."""
    earlier = earlier_runs(sorted(results.glob("paper_*.csv")))

    def planned(grid: Grid) -> list[PlannedRun]:
        runs = plan_runs(grid, {}, Path("runs"))
        own = found.setdefault(grid.name, {})
        for run in runs:
            settings = json.dumps(settings_of(settings_to_keep(run.job.config)), sort_keys=True)
            own[run.cell.name, run.seed] = settings
        return with_earlier(runs, earlier)

    found: dict[str, dict[tuple[str, int], str]] = {}
    for grid in [*find_grids(["paper"]), *find_grids([str(REMOVED)])]:
        if grid.tune is not None:
            grid = tuned_grid(grid, grid.tune, planned(tuning_grid(grid, grid.tune)))
        planned(grid)
    return found


def read_tables(results: Path) -> dict[str, list[Row]]:
    """The rows of each table, with one of status ``missing`` for each declared run that it lacks.

    Raises:
        InputError: a row is of no declared run, or has other settings than declared.
    """
    grids, tables = declared(results), {}
    for path in sorted(results.glob("paper_*.csv")):
        rows, runs = read_runs(path), grids.get(path.stem, {})
        for row in rows:
            if runs.get((row["cell"], row["seed"])) != row["settings"]:
                raise InputError(
                    f"{path}: no grid declares this run of {row['cell']!r}, seed {row['seed']},"
                    f" with the settings {row['settings']}"
                )
        lacking = [run for run in runs if run not in {(row["cell"], row["seed"]) for row in rows}]
        missing = {**dict.fromkeys(rows[0]), "status": "missing"}
        rows += [{**missing, "cell": cell, "seed": seed} for cell, seed in lacking]
        tables[path.stem] = rows
    for name in grids:
        if name not in tables:
            raise InputError(f"{results / name}.csv does not exist: 'kat ablate' makes it")
    return {name: tables[name] for name in grids}


def write_pages(results: Path, pages: Sequence[Path], figures: Path) -> None:
    """Write the tables into the pages, the figures of grids that they show, and the forest plot.

    Raises:
        InputError: a table has a run that its grid does not declare.
    """
    texts: dict[str, str] = {}
    tested: dict[str, list[CellResult]] = {}
    losses: dict[str, list[CellResult]] = {}
    figures.mkdir(parents=True, exist_ok=True)
    written = {page: page.read_text() for page in pages}
    text = "".join(written.values())
    for name, rows in read_tables(results).items():
        if records := moments(results, name):
            texts[f"{name}_moments"] = moments_table([r for run in records.values() for r in run])
        metric = compared(main_metric(rows), rows)
        cells = summarize(rows, measure=metric.name)
        columns, lines = table(cells, cells[0].name, metric)
        kept = [place for place, title in enumerate(columns) if title not in INCOMPARABLE + IN_ROWS]
        shown = [[line[place] for place in kept] for line in [columns, *lines]]
        texts[name] = markdown(shown[0], shown[1:]) + without_result(rows)
        if f"/{name}.svg" in text:
            figure = draw_cells(cells, metric, rows[0].get("title") or name)
            save_figure(figure, figures / f"{name}.svg")
        if metric.name in TEST_COLUMNS:
            tested[name.removeprefix("paper_")] = cells
            losses[name.removeprefix("paper_")] = summarize(rows, measure="test_loss")
    if tested:
        groups = {
            f.question: list(differences(f, tested[f.grid]).items()) for f in FAMILIES if f.drawn
        }
        label = "points of test accuracy (right of 0: the first named is better)"
        save_figure(draw_forest(groups, label), figures / "forest.svg")
        texts["declared"] = declared_table(tested)
        lines: list[list[str]] = []
        for family in FAMILIES:
            lines += family_lines(family, tested[family.grid], losses[family.grid])
        texts["families"] = markdown(FAMILY_COLUMNS, lines)
    for page, old in written.items():
        write_text(page, fill_tables(old, texts))


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """Return a Markdown page with each table between its marks; a table without marks is left out.

    Args:
        page: has a line ``<!-- table of NAME -->`` and a line ``<!-- end of table -->`` for each.
        tables: by name, in Markdown.
    """
    for name, content in tables.items():
        before, mark, after = page.partition(f"<!-- table of {name} -->")
        _, end, rest = after.partition("<!-- end of table -->")
        if end:
            page = f"{before}{mark}\n\n{content.strip()}\n\n{end}{rest}"
    return page


def without_result(rows: Sequence[Row]) -> str:
    """The runs of a table that have no result, for the line below it; empty if all have one."""
    runs = [f"{r['cell']}, seed {r['seed']} ({r['status']})" for r in rows if r["status"] != "done"]
    return f"\nWithout a result: {'; '.join(runs)}.\n" if runs else ""


def differences(family: Family, cells: Sequence[CellResult]) -> dict[str, Estimate]:
    """The paired differences of a family, by the names of the others."""
    values = {cell.name: cell.values for cell in cells}
    base = values[family.reference]
    sign = -1 if family.minus_reference else 1
    return {
        label: Estimate.of(
            [sign * (base[s] - value) for s, value in values[name].items() if s in base]
        )
        for label, name in family.others.items()
    }


FAMILY_COLUMNS = (
    "question", "the other", "declared: paired difference", "p", "correlation over seeds",
    "Welch", "Dunnett", "p, Dunnett", "verdict changes", "difference of the test loss",
)  # fmt: skip


def family_lines(
    family: Family, cells: Sequence[CellResult], losses: Sequence[CellResult]
) -> Iterator[list[str]]:
    """The lines of a family in the table of both analyses.

    Dunnett's test compares all others with the reference at once, with one variance for all of
    them; Welch's test compares two cells without pairing their seeds.
    """
    values = {cell.name: cell.values for cell in cells}
    base = values[family.reference]
    samples = [list(values[name].values()) for name in family.others.values()]
    test = dunnett(*samples, control=list(base.values()), random_state=0)
    interval = test.confidence_interval()
    found, of_loss = differences(family, cells), differences(family, losses)
    for place, (label, name) in enumerate(family.others.items()):
        low, high = interval.low[place], interval.high[place]
        if not family.minus_reference:
            low, high = -high, -low
        own = values[name]
        welch = ttest_ind(list(base.values()), list(own.values()), equal_var=False)
        ends = welch.confidence_interval()
        pairs = [(value, base[seed]) for seed, value in own.items() if seed in base]
        paired = found[label]
        was, now = paired.p_value < 0.05, low > 0 or high < 0
        yield [
            "" if place else family.question,
            label,
            paired.text(sign=True),
            f"{paired.p_value:.2g}",
            f"{pearsonr(*zip(*pairs, strict=True)).statistic:+.2f}" if len(pairs) > 2 else "-",
            Estimate(paired.mean, (ends.high - ends.low) / 2, paired.n).text(sign=True),
            f"{low:+.2f} to {high:+.2f}",
            f"{test.pvalue[place]:.2g}",
            "" if was == now else "now excludes 0" if now else "now contains 0",
            of_loss[label].text(4, sign=True),
        ]


def declared_table(grids: Mapping[str, Sequence[CellResult]]) -> str:
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
