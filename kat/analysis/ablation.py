"""Statistics over the runs of a grid: means, 95 % intervals, paired differences from a reference.

For a cell with values v_1 .. v_n of n seeds, and t_(n-1) the 97.5 % point of the t distribution,

    interval of the mean        mean(v) +- t_(n-1) s(v) / sqrt(n)
    paired difference           the same of d_i = v_i - r_i, r_i the reference's value of that seed

A seed gives both models the same order of data and the same augmentation, so that much of the noise
cancels in the difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t

from kat.analysis.learning_curves import HEADLINES, METRICS, common_headline
from kat.errors import InputError
from kat.tables import columns_of, open_table, write_table
from kat.text import scaled
from kat.training.evaluation.tested_run import TEST_COLUMNS
from kat.training.tasks.task import Metric

Row = dict[str, Any]
"""One run: ``cell``, ``seed``, those of :data:`MEASURES`, and more."""

MEASURES = (
    *METRICS,
    *TEST_COLUMNS,
    "parameters",
    "flops",
    "seconds",
    "images_per_second",
    "memory_bytes",
)
"""What is measured of a run."""
_EPOCHS = ("epochs", "best_epoch", "epochs_to_reference")
_COUNTS = ("parameters", "flops", "memory_bytes", *_EPOCHS)
_IDENTITY = ("cell", "seed", "status")
_RESULTS = (*_IDENTITY, *MEASURES, *_EPOCHS, "run")
COLUMNS = (*_RESULTS, "tuned", "title", "settings")
"""The columns of a table of runs, but for the factors of its grid."""
_BESIDE = {
    "test_last_top1": ("last epoch (%)", 2),
    "test_ece": ("ECE", 4),
    "epochs_to_reference": ("epochs to reference", 1),
}
"""Further columns of the printed table, where runs have them: their titles and digits."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with the half-width of its 95 % interval, NaN for one seed."""

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimates the mean of a sample, by the t distribution.

        Raises:
            ValueError: there are no values.
        """
        if not values:
            raise ValueError("an estimate needs at least one value")
        n = len(values)
        if n == 1:
            return cls(values[0], math.nan, 1)
        spread = statistics.stdev(values) / math.sqrt(n)
        return cls(statistics.fmean(values), float(t.ppf(0.975, n - 1)) * spread, n)

    def text(self, digits: int = 2, sign: bool = False) -> str:
        """``84.21 ± 0.35``; the mean alone where there is no interval."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.half_width) else f"{mean} ± {self.half_width:.{digits}f}"


@dataclass(frozen=True)
class Comparison:
    """A measure of something and its difference from a reference.

    Args:
        name: the name of what is compared.
        values: the measure by seed.
        estimate: the mean; None where there are no values.
        difference: the difference from the reference, over the seeds that both have; None for the
            reference.
    """

    name: str
    values: dict[int, float]
    estimate: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True)
class CellResult(Comparison):
    """The results of one cell, its values those of the runs that are done.

    Args:
        failed: seeds whose run has no result.
        row: the row of the first run that is done, for what does not depend on the seed.
        seconds: mean over the runs, NaN without any.
        beside: means of further results as texts, by the title of their column.
    """

    failed: list[int]
    row: Row
    seconds: float
    beside: dict[str, str] = field(default_factory=dict)


def main_metric(rows: Iterable[Row]) -> Metric:
    """The main metric of the runs of a grid; that of a classifier where no run is done.

    Raises:
        InputError: they are of several tasks.
    """
    done = [row for row in rows if row["status"] == "done"]
    return METRICS[common_headline(done) if done else HEADLINES[0]]


def compared(metric: Metric, rows: Iterable[Row]) -> Metric:
    """The metric that the cells of a grid are compared by: on test images where there are any.

    Args:
        metric: the main metric of the validation.
        rows: the runs of the grid.
    """
    name = f"test_{metric.name}"
    tested = any(row.get(name) is not None for row in rows)
    return metric._replace(name=name, label=f"test {metric.label}") if tested else metric


def with_split(metric: Metric) -> str:
    """The label of a metric with the split it was measured on: validation top-1, test top-1."""
    tested = metric.name in TEST_COLUMNS  # which their label says
    return metric.label if tested else f"validation {metric.label}"


def summarize(
    rows: Iterable[Row], reference: str | None = None, measure: str = "top1"
) -> list[CellResult]:
    """Summarizes runs by cell, in the order of their rows.

    Args:
        rows: one for each run.
        reference: the cell that differences are taken from; None: that of the first row.
        measure: the column that is compared.

    Raises:
        InputError: there are no rows, or there is no such cell.
    """
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    if not cells:
        raise InputError("there are no runs to summarize")
    reference = next(iter(cells)) if reference is None else reference
    if reference not in cells:
        raise InputError(f"there is no cell {reference!r}; there are {', '.join(cells)}")
    base = _values(cells[reference], measure)
    return [_result(name, own, base, name == reference, measure) for name, own in cells.items()]


def _values(rows: Sequence[Row], measure: str) -> dict[int, float]:
    """The measure by seed; JSON has no NaN, so a metric may be missing."""
    done = [row for row in rows if row["status"] == "done"]
    return {row["seed"]: row[measure] for row in done if row.get(measure) is not None}


def _result(
    name: str, rows: Sequence[Row], base: Mapping[int, float], is_reference: bool, measure: str
) -> CellResult:
    values = _values(rows, measure)
    done = [row for row in rows if row["status"] == "done"]
    differences = [value - base[seed] for seed, value in values.items() if seed in base]
    return CellResult(
        name=name,
        values=values,
        estimate=Estimate.of(list(values.values())) if values else None,
        difference=None if is_reference or not differences else Estimate.of(differences),
        failed=[row["seed"] for row in rows if row["status"] != "done"],
        row=done[0] if done else rows[0],
        seconds=statistics.fmean(row["seconds"] for row in done) if done else math.nan,
        beside=_beside(rows),
    )


def _beside(rows: Sequence[Row]) -> dict[str, str]:
    """Says of how many runs a mean is where some have no value, as with epochs never reached."""
    texts = {}
    for name, (title, digits) in _BESIDE.items():
        values = list(_values(rows, name).values())
        of = f" ({len(values)} of {len(rows)})" if len(values) < len(rows) else ""
        if values:
            texts[title] = Estimate.of(values).text(digits) + of
    return texts


def has_intervals(results: Iterable[Comparison]) -> bool:
    """Whether a mean is over several seeds; one seed has no interval."""
    return any(result.estimate is not None and result.estimate.n > 1 for result in results)


def table(
    results: Sequence[CellResult], reference: str, metric: Metric
) -> tuple[list[str], list[list[str]]]:
    """The column names and the rows of the printed table."""
    columns = [
        "cell",
        f"{metric.label} (%)",
        f"minus {reference}",
        "seeds",
        "parameters",
        "FLOPs per image",
        "seconds per run",
    ]
    rows = [_cells(result) for result in results]
    for title, _ in _BESIDE.values():
        if any(title in result.beside for result in results):
            columns.append(title)
            rows = [
                [*row, result.beside.get(title, "-")]
                for row, result in zip(rows, results, strict=True)
            ]
    if any(result.row.get("tuned") for result in results):
        columns.append("tuned")
        rows = [[*row, result.row["tuned"]] for row, result in zip(rows, results, strict=True)]
    return columns, rows


def _cells(result: CellResult) -> list[str]:
    estimate, difference, row = result.estimate, result.difference, result.row
    failed = f", {len(result.failed)} failed" if result.failed else ""
    return [
        result.name,
        "-" if estimate is None else estimate.text(),
        "-" if difference is None else difference.text(sign=True),
        f"{len(result.values)}{failed}",
        f"{row['parameters']:,}" if estimate else "-",
        scaled(row["flops"]) if estimate else "-",
        f"{result.seconds:.0f}" if estimate else "-",
    ]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as CSV: those of :data:`COLUMNS` that a row has, and the factors."""
    known = columns_of(rows)
    first = [name for name in _RESULTS if name in known or name in _IDENTITY]
    write_table(path, columns_of(rows, first), rows)


def read_runs(path: Path) -> list[Row]:
    """Reads what :func:`write_runs` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    with open_table(path, "a table of runs as kat ablate writes it") as lines:
        rows = [_read_row(line) for line in lines]
    if not rows:
        raise InputError(f"{path} holds no runs")
    return rows


def _read_row(line: dict[str, str]) -> Row:
    row: Row = {**line, **dict.fromkeys(MEASURES)}
    row |= {"seed": int(line["seed"]), "cell": line["cell"], "status": line["status"]}
    for name in (*MEASURES, *_EPOCHS):
        if line.get(name):
            row[name] = int(line[name]) if name in _COUNTS else float(line[name])
    return row
