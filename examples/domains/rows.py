"""Rows of a CSV file, one a run: rates tuned by arm, runs resumed, differences paired by seed.

An arm is one of the ways that an experiment compares. It tries its learning rates with seed 0 (rows
"tune") and keeps the one that is best on validation data; then it runs with other seeds (rows
"test"). A run whose row is in the file is not made again, so that an experiment can be stopped and
started. The examples here use it, and so do the benchmarks of fine-tuning (benchmarks/arms.py).
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

Row = dict[str, str]
Run = Callable[[str, float, int, bool], Mapping[str, Any]]
"""Trains and evaluates an arm with a rate and a seed, to tune or not; gives what it measured."""

IDENTITY = ("arm", "seed", "rate", "for")


@dataclass
class Runs:
    """The rows of a CSV file that have the same settings.

    Args:
        path: of the file, made with its first row.
        columns: the names of all columns.
        settings: values that all of these rows share, such as the number of epochs.
        valid: the column that chooses the rate.
        best: ``max`` or ``min``, which of the values of ``valid`` is best.
    """

    path: Path
    columns: Sequence[str]
    settings: Mapping[str, str | int]
    valid: str
    best: Callable[..., Row] = max

    def make(self, rates: Mapping[str, Sequence[float]], seeds: Sequence[int], run: Run) -> None:
        """Makes the runs that are missing: first those that tune, then seed by seed."""
        for arm, tried in rates.items():
            for rate in tried:
                self._make(arm, rate, 0, True, run)
        for seed in seeds:
            for arm in rates:
                self._make(arm, self.best_rate(arm), seed, False, run)

    def done(self, arm: str, purpose: str) -> list[Row]:
        """The rows of an arm, of those that tune or test."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = {"arm": arm, "for": purpose} | {n: str(v) for n, v in self.settings.items()}
        return [row for row in rows if all(row[name] == wanted[name] for name in wanted)]

    def best_rate(self, arm: str) -> float:
        """The tried rate that is best on the validation data.

        Raises:
            SystemExit: training diverged with every rate.
        """
        rows = [row for row in self.done(arm, "tune") if math.isfinite(float(row[self.valid]))]
        if not rows:
            raise SystemExit(f"{arm} diverges with every learning rate that it tries")
        return float(self.best(rows, key=lambda row: float(row[self.valid]))["rate"])

    def estimate(self, arm: str, measure: str) -> Estimate:
        """The mean of the tests of an arm, with its 95 % interval."""
        return Estimate.of([float(row[measure]) for row in self.done(arm, "test")])

    def difference(self, arm: str, reference: str, measure: str) -> Estimate | None:
        """The mean difference over the seeds that both arms were tested with; None without any."""
        own, other = (
            {row["seed"]: float(row[measure]) for row in self.done(name, "test")}
            for name in (arm, reference)
        )
        paired = [own[seed] - other[seed] for seed in own.keys() & other.keys()]
        return Estimate.of(paired) if paired else None

    def tested(self, arms: Iterable[str]) -> list[str]:
        """Those of the arms that have tests."""
        return [arm for arm in arms if self.done(arm, "test")]

    def _make(self, arm: str, rate: float, seed: int, tuning: bool, run: Run) -> None:
        purpose = "tune" if tuning else "test"
        known = ((int(row["seed"]), float(row["rate"])) for row in self.done(arm, purpose))
        if (seed, rate) in known:
            return
        row: dict[str, Any] = {"arm": arm, "seed": seed, "rate": rate, "for": purpose}
        row |= {**self.settings, **run(arm, rate, seed, tuning)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        if not self.path.exists():
            writer.writeheader()
        writer.writerow(row)
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())  # at once, so that a row is whole or not there
        print(arm, seed, rate, purpose, f"{row['seconds']} s", row[self.valid], flush=True)


def warm_up_and_decay(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up in a tenth of the steps, then linear decay."""
    warm_up = max(1, steps // 10)
    decay = max(1, steps - warm_up)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / decay)
    )
