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

from scipy.stats import t

from kat.analysis.runs import HEADLINES, METRICS, Row, common_headline
from kat.errors import InputError
from kat.text import scaled
from kat.training.evaluation.evaluate import TEST_COLUMNS
from kat.training.tasks.declared import Metric

_BESIDE: dict[str, Callable[[Estimate], str]] = {
    "test_last_top1": lambda mean: mean.text(percent=True),
    "test_loss": lambda mean: mean.text(4),
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
        """Estimate the mean of a sample of one or more values, by the t distribution."""
        n = len(values)
        if n == 1 or not all(map(math.isfinite, values)):
            return cls(sum(values) / n, math.nan, n)
        spread = statistics.stdev(values) / math.sqrt(n)
        return cls(statistics.fmean(values), float(t.ppf(0.975, n - 1)) * spread, n)

    @property
    def p_value(self) -> float:
        """Return the p value of the two-sided t test that the mean is 0; NaN without an interval.

        It is below 0.05 where the interval excludes 0.
        """
        if not self.half_width:
            return 0.0 if self.mean else 1.0
        quantile = float(t.ppf(0.975, self.n - 1))
        return 2 * float(t.sf(quantile * abs(self.mean) / self.half_width, self.n - 1))

    def reach(self, percent: bool = False) -> tuple[float, float]:
        """Return the reach of the interval below and above the mean; percentages end at 0, 100."""
        half = self.half_width
        return (min(half, self.mean), min(half, 100 - self.mean)) if percent else (half, half)

    def text(self, digits: int = 2, sign: bool = False, percent: bool = False) -> str:
        """Return ``84.21 ± 0.35``; the mean alone without an interval, its ends if it is cut."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        below, above = self.reach(percent)
        if min(below, above) < self.half_width:
            return f"{mean} ({self.mean - below:.{digits}f} to {self.mean + above:.{digits}f})"
        return mean if math.isnan(self.half_width) else f"{mean} ± {self.half_width:.{digits}f}"


@dataclass(frozen=True)
class CellResult:
    """The results of one cell, and its difference from a reference.

    Args:
        name: the name of the cell.
        values: the measure by seed, of the runs that are done.
        estimate: the mean; None where there are no values.
        difference: the difference from the reference, over the seeds that both have; None for the
            reference.
        failed: seeds whose run has no result.
        row: the row of the first run that is done, for what does not depend on the seed.
        seconds: mean over the runs, NaN without any.
        beside: means of further results as texts, by the name of the result.
    """

    name: str
    values: dict[int, float]
    estimate: Estimate | None
    difference: Estimate | None
    failed: list[int]
    row: Row
    seconds: float
    beside: dict[str, str] = field(default_factory=dict)


def main_metric(rows: Iterable[Row]) -> Metric:
    """Return the main metric of the runs of a grid; top-1 where no run is done.

    Raises:
        InputError: they are of several tasks.
    """
    done = [row for row in rows if row["status"] == "done"]
    return METRICS[common_headline(done) if done else HEADLINES[0]]


def compared(metric: Metric, rows: Iterable[Row]) -> Metric:
    """Return the metric that compares the cells of a grid: on test images if there are any.

    Args:
        metric: the main metric of the validation.
        rows: the runs of the grid.
    """
    name = f"test_{metric.name}"
    tested = any(row.get(name) is not None for row in rows)
    return metric._replace(name=name, label=f"test {metric.label}") if tested else metric


def with_split(metric: Metric) -> str:
    """Return a metric's label with the split it was measured on: validation top-1, test top-1."""
    tested = metric.name in TEST_COLUMNS  # which their label says
    return metric.label if tested else f"validation {metric.label}"


def summarize(
    rows: Iterable[Row], reference: str | None = None, measure: str = "top1"
) -> list[CellResult]:
    """Summarize runs by cell, in the order of their rows.

    Args:
        rows: one for each run, at least one.
        reference: the cell that differences are taken from; None: the cell of the first row.
        measure: the column that is compared.

    Raises:
        InputError: a cell has two runs of a seed.
    """
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    for name, own in cells.items():
        runs = Counter(row["seed"] for row in own if row["status"] == "done")
        for seed, count in runs.items():
            if count > 1:
                raise InputError(f"the cell {name!r} has {count} runs of seed {seed}: give one")
    reference = next(iter(cells)) if reference is None else reference
    base = _values(cells[reference], measure)
    return [_result(name, own, base, name == reference, measure) for name, own in cells.items()]


def _values(rows: Sequence[Row], measure: str) -> dict[int, float]:
    """Return the measure by seed; JSON has no NaN, so a metric may be missing."""
    done = [row for row in rows if row["status"] == "done"]
    return {row["seed"]: row[measure] for row in done if row.get(measure) is not None}


def _result(
    name: str, rows: Sequence[Row], base: Mapping[int, float], is_reference: bool, measure: str
) -> CellResult:
    values = _values(rows, measure)
    done = [row for row in rows if row["status"] == "done"]
    differences = [value - base[seed] for seed, value in values.items() if seed in base]
    beside = {}
    for column, text in _BESIDE.items():
        own = list(_values(rows, column).values())
        # Some runs may have no value, as with epochs never reached.
        of = f" ({len(own)} of {len(rows)})" if len(own) < len(rows) else ""
        if own:
            beside[column] = text(Estimate.of(own)) + of
    estimate = Estimate.of(list(values.values())) if values else None
    difference = Estimate.of(differences) if differences and not is_reference else None
    failed = [row["seed"] for row in rows if row["status"] != "done"]
    seconds = statistics.fmean(row["seconds"] for row in done) if done else math.nan
    row = [*done, *rows][0]
    return CellResult(name, values, estimate, difference, failed, row, seconds, beside)


def has_intervals(results: Iterable[CellResult]) -> bool:
    """Return True if a mean is over several seeds; one seed has no interval."""
    return any(result.estimate is not None and result.estimate.n > 1 for result in results)


def table(
    results: Sequence[CellResult], reference: str, metric: Metric
) -> tuple[list[str], list[list[str]]]:
    """Return the column names and the rows of the printed table.

    Args:
        results: the cells.
        reference: the cell that differences are taken from.
        metric: what was summarized; on test images, results of the test are shown beside it, and
            images/s and memory.
    """
    lines = [_cells(result, reference, metric) for result in results]
    columns, rows = [], []
    for title in lines[0]:
        if any(line[title] is not None for line in lines):
            columns.append(title)
    for line in lines:
        rows.append([line[title] or "-" for title in columns])
    return columns, rows


def _cells(result: CellResult, reference: str, metric: Metric) -> dict[str, str | None]:
    """Return the texts of a row by the titles of their columns; a column of None is left out."""
    estimate, difference, row = result.estimate, result.difference, result.row
    of = f" of {len(result.values) + len(result.failed)}" if result.failed else ""
    beside = result.beside.get
    texts = {
        "cell": result.name,
        f"{metric.label} (%)": "-" if estimate is None else estimate.text(percent=True),
        "last epoch (%)": beside("test_last_top1"),
        f"minus {reference}": "-" if difference is None else difference.text(sign=True),
        "test loss": beside("test_loss"),
        "ECE": beside("test_ece"),
        "seeds": f"{len(result.values)}{of}",
    }
    texts |= dict.fromkeys(("parameters", "FLOPs per image", "seconds per run"), "-")
    if estimate is not None:
        texts["parameters"] = f"{row['parameters']:,}"
        texts["FLOPs per image"] = scaled(row["flops"])
        texts["seconds per run"] = f"{result.seconds:.0f}"
    if metric.name in TEST_COLUMNS:
        texts["images/s"] = beside("images_per_second")
        texts["peak memory"] = beside("memory_bytes")
    texts["epochs to reference"] = beside("epochs_to_reference")
    texts["tuned"] = row.get("tuned") or None
    return texts


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    text = ""
    for line in (columns, ["---"] * len(columns), *rows):
        cells = [cell.replace("|", "\\|") for cell in line]
        text += f"| {' | '.join(cells)} |\n"
    return text
