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
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy.stats import t

from kat.analysis.learning_curves import HEADLINES, METRICS, common_headline
from kat.errors import InputError
from kat.tables import columns_of, open_table, write_table
from kat.text import scaled
from kat.training.evaluation.tested_run import TEST_COLUMNS
from kat.training.sweep.concurrency import RUNS_AT_ONCE
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
CURVE = "validation_curve"
"""The column of the main validation metric after each epoch, separated by spaces."""
_EPOCHS = ("epochs", "best_epoch", "epochs_to_reference")
_COUNTS = ("parameters", "flops", "memory_bytes", *_EPOCHS, RUNS_AT_ONCE)
_IDENTITY = ("cell", "seed", "status")
OF_RUN = ("status", *MEASURES, RUNS_AT_ONCE, "epochs", "best_epoch", CURVE)
"""The columns of a run that are the same in every grid that has it."""
_RESULTS = (*_IDENTITY, *MEASURES, RUNS_AT_ONCE, *_EPOCHS, CURVE, "run")
COLUMNS = (*_RESULTS, "tuned", "title", "settings")
"""The columns of a table of runs, but for the factors of its grid."""
_BESIDE: dict[str, Callable[[Estimate], str]] = {
    "test_last_top1": lambda mean: mean.text(),
    "test_ece": lambda mean: mean.text(4),
    "images_per_second": lambda mean: f"{mean.mean:.0f}",
    "memory_bytes": lambda mean: scaled(mean.mean, "B"),
    "epochs_to_reference": lambda mean: mean.text(1),
}
"""Results beside the metric that is compared, as the printed table has their means."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with the half-width of its 95 % interval.

    The half-width is NaN for one seed, and where a value is not finite.
    """

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
        if n == 1 or not all(map(math.isfinite, values)):
            return cls(sum(values) / n, math.nan, n)
        spread = statistics.stdev(values) / math.sqrt(n)
        return cls(statistics.fmean(values), float(t.ppf(0.975, n - 1)) * spread, n)

    @property
    def p_value(self) -> float:
        """The p value of the two-sided t test that the mean is 0; NaN where there is no interval.

        It is below 0.05 where the interval excludes 0.
        """
        if not self.half_width:
            return 0.0 if self.mean else 1.0
        quantile = float(t.ppf(0.975, self.n - 1))
        return 2 * float(t.sf(quantile * abs(self.mean) / self.half_width, self.n - 1))

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
        beside: means of further results as texts, by the name of the result.
        runs_at_once: the most runs that were trained at a time while one of the cell was; None
            where the record of one is missing.
    """

    failed: list[int]
    row: Row
    seconds: float
    beside: dict[str, str] = field(default_factory=dict)
    runs_at_once: int | None = None


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
        InputError: there are no rows, there is no such cell, or one has two runs of a seed.
    """
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    for name, own in cells.items():
        runs = Counter(row["seed"] for row in own if row["status"] == "done")
        for seed, count in runs.items():
            if count > 1:
                raise InputError(f"the cell {name!r} has {count} runs of seed {seed}: give one")
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
        runs_at_once=_runs_at_once(done),
    )


def _beside(rows: Sequence[Row]) -> dict[str, str]:
    """Says of how many runs a mean is where some have no value, as with epochs never reached."""
    texts = {}
    for name, text in _BESIDE.items():
        values = list(_values(rows, name).values())
        of = f" ({len(values)} of {len(rows)})" if len(values) < len(rows) else ""
        if values:
            texts[name] = text(Estimate.of(values)) + of
    return texts


def _runs_at_once(done: Sequence[Row]) -> int | None:
    counts = [row.get(RUNS_AT_ONCE) for row in done]
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def has_intervals(results: Iterable[Comparison]) -> bool:
    """Whether a mean is over several seeds; one seed has no interval."""
    return any(result.estimate is not None and result.estimate.n > 1 for result in results)


def table(
    results: Sequence[CellResult], reference: str, metric: Metric
) -> tuple[list[str], list[list[str]]]:
    """The column names and the rows of the printed table.

    Args:
        results: the cells.
        reference: the cell that differences are taken from.
        metric: what was summarized; on test images, results of the test are shown beside it, and
            images/s and memory.
    """
    shared = " (shared)" if _most_at_once(results) > 1 else ""
    lines = [_cells(result, reference, metric, shared) for result in results]
    columns = [title for title in lines[0] if any(line[title] is not None for line in lines)]
    return columns, [[line[title] or "-" for title in columns] for line in lines]


def timing_note(results: Sequence[CellResult], metric: Metric) -> str:
    """Says under the table how far its times can be trusted; empty where nothing is to be said."""
    done = [result for result in results if result.values]
    tested = metric.name in TEST_COLUMNS
    measured = "seconds, images/s and peak memory" if tested else "seconds"
    if (most := _most_at_once(done)) > 1:
        return (
            f"Shared: {measured} were measured while up to {most} runs shared the machine, and"
            " slowed each other down."
        )
    if tested and any(result.runs_at_once is None for result in done):
        return (
            f"It is not recorded how many runs shared the machine while {measured} were measured."
        )
    return ""


def _most_at_once(results: Sequence[CellResult]) -> int:
    return max((result.runs_at_once or 1 for result in results), default=1)


def _cells(
    result: CellResult, reference: str, metric: Metric, shared: str
) -> dict[str, str | None]:
    """The texts of a row by the titles of their columns; None: the column is left out if empty."""
    estimate, difference, row = result.estimate, result.difference, result.row
    failed = f" done, {len(result.failed)} failed" if result.failed else ""
    tested = metric.name in TEST_COLUMNS
    beside = result.beside.get
    return {
        "cell": result.name,
        f"{metric.label} (%)": "-" if estimate is None else estimate.text(),
        "last epoch (%)": beside("test_last_top1"),
        f"minus {reference}": "-" if difference is None else difference.text(sign=True),
        "ECE": beside("test_ece"),
        "seeds": f"{len(result.values)}{failed}",
        "parameters": f"{row['parameters']:,}" if estimate else "-",
        "FLOPs per image": scaled(row["flops"]) if estimate else "-",
        "seconds per run": f"{result.seconds:.0f}" if estimate else "-",
        f"images/s{shared}": beside("images_per_second") if tested else None,
        f"peak memory{shared}": beside("memory_bytes") if tested else None,
        "epochs to reference": beside("epochs_to_reference"),
        "tuned": row.get("tuned") or None,
    }


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
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path} holds no runs")
    return rows


def read_rows(path: Path) -> list[Row]:
    """As :func:`read_runs`, of a table that may have no rows yet."""
    with open_table(path, "a table of runs as kat ablate writes it") as lines:
        rows = [_read_row(line) for line in lines]
    if not all(row.get("run") for row in rows):
        raise InputError(f"{path} does not name the run directory of each row")
    return rows


def _read_row(line: dict[str, str]) -> Row:
    numbers = (*MEASURES, *_EPOCHS, RUNS_AT_ONCE)
    row: Row = {**line, **dict.fromkeys(numbers)}
    row |= {"seed": int(line["seed"]), "cell": line["cell"], "status": line["status"]}
    for name in numbers:
        if line.get(name):
            row[name] = int(line[name]) if name in _COUNTS else float(line[name])
    return row
