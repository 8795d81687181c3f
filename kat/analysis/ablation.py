"""What the runs of a grid say: means, 95 % intervals, and paired differences from a reference.

For a cell with the values v_1 .. v_n of n seeds, with the t distribution's 97.5 % point t_(n-1),

    interval of the mean        mean(v) +- t_(n-1) s(v) / sqrt(n)
    paired difference           the same of d_i = v_i - r_i, r_i the reference's value of that seed

Seeds give both models the same data order and augmentation, so that much of the noise falls out of
the difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t

from kat.errors import InputError
from kat.tables import columns_of, open_table, write_table

Row = dict[str, Any]
"""One run: ``cell``, ``seed``, those of :data:`MEASURES`, and more."""

MEASURES = (
    "top1",
    "top5",
    "parameters",
    "flops",
    "seconds",
    "images_per_second",
    "memory_bytes",
)
FIRST_COLUMNS = ("cell", "seed", "status", *MEASURES, "epochs", "run")


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds with the half width of its 95 % interval, NaN for one seed."""

    mean: float
    half_width: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of a sample, by the t distribution.

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
        """E.g. ``84.21 ± 0.35``; without an interval where there is none."""
        mean = f"{self.mean:+.{digits}f}" if sign else f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.half_width) else f"{mean} ± {self.half_width:.{digits}f}"


@dataclass(frozen=True)
class CellResult:
    """What the runs of one cell say.

    Args:
        name: of the cell.
        values: the measure by seed, of the runs that are done.
        estimate: its mean; None where no run is done.
        difference: from the reference, over the seeds that both have; None for the reference.
        failed: seeds whose run has no result.
        row: the first done run's row, for what does not depend on the seed.
        seconds: mean of the runs, NaN without any.
    """

    name: str
    values: dict[int, float]
    estimate: Estimate | None
    difference: Estimate | None
    failed: list[int]
    row: Row
    seconds: float


def summarize(
    rows: Iterable[Row], reference: str | None = None, measure: str = "top1"
) -> list[CellResult]:
    """One result for each cell, in the order in which the rows have them.

    Args:
        rows: one a run.
        reference: the cell that differences are taken from; by default the first row's.
        measure: the column that is compared.

    Raises:
        InputError: no rows, or no such cell.
    """
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["cell"], []).append(row)
    if not cells:
        raise InputError("there are no runs to sum up")
    reference = next(iter(cells)) if reference is None else reference
    if reference not in cells:
        raise InputError(f"there is no cell {reference!r}; there are {', '.join(cells)}")
    base = _values(cells[reference], measure)
    return [_result(name, own, base, name == reference, measure) for name, own in cells.items()]


def _values(rows: Sequence[Row], measure: str) -> dict[int, float]:
    return {row["seed"]: row[measure] for row in rows if row["status"] == "done"}


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
    )


def table(results: Sequence[CellResult], reference: str) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table that a person reads."""
    head = [
        "cell",
        "top-1 (%)",
        f"minus {reference}",
        "seeds",
        "parameters",
        "FLOPs an image",
        "seconds a run",
    ]
    return head, [_line(result) for result in results]


def _line(result: CellResult) -> list[str]:
    estimate, difference, row = result.estimate, result.difference, result.row
    lost = f", {len(result.failed)} failed" if result.failed else ""
    return [
        result.name,
        "-" if estimate is None else estimate.text(),
        "-" if difference is None else difference.text(sign=True),
        f"{len(result.values)}{lost}",
        f"{row['parameters']:,}" if estimate else "-",
        f"{row['flops'] / 1e6:.2f} M" if estimate else "-",
        f"{result.seconds:.0f}" if estimate else "-",
    ]


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table as Markdown has it."""
    rows = [head, ["---"] * len(head), *lines]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def write_runs(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as CSV: :data:`FIRST_COLUMNS`, then the factors and settings."""
    write_table(path, columns_of(rows, FIRST_COLUMNS), rows)


def read_runs(path: Path) -> list[Row]:
    """Reads what :func:`write_runs` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    with open_table(path, "a table of runs as kat ablate writes it") as lines:
        rows = [_row(line) for line in lines]
    if not rows:
        raise InputError(f"{path} holds no runs")
    return rows


_COUNTS = ("parameters", "flops", "memory_bytes", "epochs")


def _row(line: dict[str, str]) -> Row:
    values: Row = {"seed": int(line["seed"]), "cell": line["cell"], "status": line["status"]}
    for name in (*MEASURES, "epochs"):
        if line[name]:
            values[name] = int(line[name]) if name in _COUNTS else float(line[name])
    return {**line, **dict.fromkeys(MEASURES), **values}
