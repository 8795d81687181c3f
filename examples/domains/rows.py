"""Rows of a CSV file, one a run: rates tuned by arm, runs resumed, differences paired by seed.

An arm is one of the ways that an experiment compares. It tries its learning rates with seed 0 (rows
"tune") and keeps those that are best on validation data; then it runs with other seeds (rows
"test"). A run whose row is in the file is not made again, so that an experiment can be stopped and
started.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kat.analysis.ablation import Estimate
from kat.tables import columns_of, write_table
from kat.training.record.provenance import PROVENANCE, provenance

Row = dict[str, str]
Rates = dict[str, float]
"""What is tuned, by column: ``{"rate": 1e-3}``."""
Run = Callable[[str, Rates, int, bool], Mapping[str, Any]]
"""Trains and evaluates an arm with rates and a seed, to tune or not; gives what it measured."""

IDENTITY = ("arm", "seed", "for")


@dataclass
class Runs:
    """The rows of a CSV file that have the same settings.

    Args:
        path: of the file, made with its first row.
        columns: the names of all columns, but for :data:`PROVENANCE`, which each file has.
        tuned: the columns of :data:`Rates`.
        settings: values that all of these rows share, such as the number of epochs.
        valid: the column that chooses the rates.
        best: ``max`` or ``min``, which of the values of ``valid`` is best.
    """

    path: Path
    columns: Sequence[str]
    tuned: Sequence[str]
    settings: Mapping[str, str | int]
    valid: str
    best: Callable[..., Row] = max

    def make(self, tries: Mapping[str, Sequence[Rates]], seeds: Sequence[int], run: Run) -> None:
        """Makes the runs that are missing: first those that tune, then seed by seed.

        An arm with one try is not tuned.
        """
        for arm, tried in tries.items():
            for rates in tried if len(tried) > 1 else ():
                self._make(arm, rates, 0, True, run)
        for seed in seeds:
            for arm, tried in tries.items():
                rates = self.best_rates(arm) if len(tried) > 1 else tried[0]
                self._make(arm, rates, seed, False, run)

    def done(self, arm: str, purpose: str) -> list[Row]:
        """The rows of an arm, of those that tune or test."""
        wanted = {"arm": arm, "for": purpose} | {n: str(v) for n, v in self.settings.items()}
        return [row for row in self._all() if all(row[name] == wanted[name] for name in wanted)]

    def _all(self) -> list[Row]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def best_rates(self, arm: str) -> Rates:
        """The tried rates that are best on the validation data.

        Raises:
            SystemExit: training diverged with every rate.
        """
        rows = [row for row in self.done(arm, "tune") if math.isfinite(float(row[self.valid]))]
        if not rows:
            raise SystemExit(f"{arm}: no run with seed 0 in {self.path} ended; all rates diverge?")
        return self._rates(self.best(rows, key=lambda row: float(row[self.valid])))

    def estimate(self, arm: str, measure: str) -> Estimate:
        """The mean of the tests of an arm, with its 95 % interval."""
        return Estimate.of([float(row[measure]) for row in self.done(arm, "test")])

    def difference(self, arm: str, reference: str, measure: str) -> Estimate | None:
        """The mean difference over the seeds that both arms were tested with; None without any."""
        paired = [own - other for own, other in self.pairs(arm, reference, measure)]
        return Estimate.of(paired) if paired else None

    def pairs(self, arm: str, reference: str, measure: str) -> list[tuple[float, float]]:
        """The tests of an arm and of its reference, for each seed that both were tested with."""
        own, other = (
            {row["seed"]: float(row[measure]) for row in self.done(name, "test")}
            for name in (arm, reference)
        )
        return [(own[seed], other[seed]) for seed in own if seed in other]

    def tested(self, arms: Iterable[str]) -> list[str]:
        """Those of the arms that have tests."""
        return [arm for arm in arms if self.done(arm, "test")]

    def _rates(self, row: Row) -> Rates:
        return {name: float(row[name]) for name in self.tuned}

    def _make(self, arm: str, rates: Rates, seed: int, tuning: bool, run: Run) -> None:
        purpose = "tune" if tuning else "test"
        known = ((int(row["seed"]), self._rates(row)) for row in self.done(arm, purpose))
        if (seed, rates) in known:
            return
        row: dict[str, Any] = {"arm": arm, "seed": seed, "for": purpose}
        row |= provenance(torch.device("cpu")) | rates | self.settings
        row |= run(arm, rates, seed, tuning)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = self._all()
        columns = columns_of([*rows[:1], dict.fromkeys((*self.columns, *PROVENANCE))])
        if not rows or columns != list(rows[0]):  # a new file, or one from before a column was
            write_table(self.path, columns, rows)
        text = io.StringIO()
        csv.DictWriter(text, columns).writerow(row)
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())  # at once, so that a row is whole or not there
        named = {**rates, self.valid: row[self.valid], "test": row.get("test", "")}
        cells = (f"{name} {float(value):.4g}" for name, value in named.items() if value != "")
        print(f"{arm}, seed {seed}, {purpose}: {', '.join(cells)}, {row['seconds']} s", flush=True)


def warm_up_and_decay(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up in a tenth of the steps, then linear decay."""
    warm_up = max(1, steps // 10)
    decay = max(1, steps - warm_up)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / decay)
    )
