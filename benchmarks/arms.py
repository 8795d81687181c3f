"""What the benchmarks of fine-tuning share: rates tuned by arm, a row of a CSV file a run, means.

An arm is a way to fine-tune a model. It tries some learning rates with seed 0 (rows "tune") and
keeps those that are best on validation data; then it runs with other seeds (rows "test"). A run
whose row is in the file is not made again, so that a benchmark can be stopped and started.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timing import print_table
from torch import Tensor, nn

from kat.analysis.ablation import Estimate

Row = dict[str, str]
Rates = dict[str, float]
"""What is tuned, by column: ``{"rate": 1e-3}``."""
Run = Callable[[str, Rates, int, bool], Mapping[str, Any]]
"""Trains and evaluates an arm with rates and a seed, to tune or not; gives what it measured."""

IDENTITY = ("arm", "seed", "for")
COSTS = ("parameters", "optimizer bytes", "seconds")


@dataclass
class Runs:
    """The rows of a CSV file that have the same settings.

    Args:
        path: of the file, made with its first row.
        columns: the names of all columns.
        tuned: the columns of :data:`Rates`.
        settings: values that all of these rows share, such as the number of epochs.
        valid: the column that chooses the rates: the highest is best.
    """

    path: Path
    columns: Sequence[str]
    tuned: Sequence[str]
    settings: Mapping[str, str | int]
    valid: str

    def make(self, tries: Mapping[str, Sequence[Rates]], seeds: Sequence[int], run: Run) -> None:
        """Makes the runs that are missing: first those that tune, then seed by seed."""
        for arm, rates in tries.items():
            for each in rates:
                self._make(arm, each, 0, True, run)
        for seed in seeds:
            for arm in tries:
                self._make(arm, self.best(arm), seed, False, run)

    def done(self, arm: str, purpose: str) -> list[Row]:
        """The rows of an arm, of those that tune or test."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        wanted = {"arm": arm, "for": purpose} | {n: str(v) for n, v in self.settings.items()}
        return [row for row in rows if all(row[name] == wanted[name] for name in wanted)]

    def best(self, arm: str) -> Rates:
        """The tried rates that are best on the validation data."""
        rows = [row for row in self.done(arm, "tune") if not math.isnan(float(row[self.valid]))]
        return self._rates(max(rows, key=lambda row: float(row[self.valid])))

    def difference(self, arm: str, reference: str, measure: str) -> Estimate:
        """The mean difference over the seeds that both arms were tested with."""
        own, other = (
            {row["seed"]: float(row[measure]) for row in self.done(name, "test")}
            for name in (arm, reference)
        )
        return Estimate.of([own[seed] - other[seed] for seed in own.keys() & other.keys()])

    def _rates(self, row: Row) -> Rates:
        return {name: float(row[name]) for name in self.tuned}

    def _make(self, arm: str, rates: Rates, seed: int, tuning: bool, run: Run) -> None:
        purpose = "tune" if tuning else "test"
        known = ((int(row["seed"]), self._rates(row)) for row in self.done(arm, purpose))
        if (seed, rates) in known:
            return
        row: dict[str, Any] = {"arm": arm, "seed": seed, "for": purpose}
        row |= {**rates, **self.settings, **run(arm, rates, seed, tuning)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(
            arm, seed, *rates.values(), purpose, f"{row['seconds']} s", row[self.valid], flush=True
        )

    def print(
        self,
        arms: Sequence[str],
        measures: Sequence[str],
        minus: Sequence[str] = (),
        digits: int = 3,
    ) -> None:
        """Prints the means of the tests with their 95 % intervals.

        Args:
            arms: the rows, left out where an arm has no tests yet.
            measures: the columns.
            minus: arms from which the differences in the last measure are taken, seed by seed.
            digits: after the point.
        """
        tested = [arm for arm in arms if self.done(arm, "test")]
        minus = [other for other in minus if other in tested]
        table = []
        for arm in tested:
            rows = self.done(arm, "test")
            cells = [arm, *(rows[0][name] for name in (*self.tuned, *COSTS[:2]))]
            cells.append(f"{_estimate(rows, 'seconds').mean:.1f}")
            cells += [_estimate(rows, name).text(digits) for name in measures]
            for other in minus:
                difference = self.difference(arm, other, measures[-1])
                cells.append("-" if arm == other else difference.text(digits, sign=True))
            table.append([*cells, str(len(rows))])
        heads = (*measures, *(f"minus {other}" for other in minus))
        print_table(["arm", *self.tuned, *COSTS, *heads, "runs"], table)


def _estimate(rows: Sequence[Row], measure: str) -> Estimate:
    return Estimate.of([float(row[measure]) for row in rows])


def parameter_groups(model: nn.Module, rate: float, head_rate: float) -> list[dict[str, Any]]:
    """What is trained, the head with its own rate, or with the tried one where it is all."""
    trained = [(f".{name}", p) for name, p in model.named_parameters() if p.requires_grad]
    head = [p for name, p in trained if ".head." in name]
    others = [p for name, p in trained if ".head." not in name]
    if not others:
        return [{"params": head, "lr": rate}]
    return [{"params": head, "lr": head_rate}, {"params": others, "lr": rate}]


def warm_up_and_decay(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up in a tenth of the steps, then linear decay."""
    warm_up = max(1, steps // 10)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up))
    )


def costs(model: nn.Module, optimizer: torch.optim.Optimizer, seconds: float) -> dict[str, Any]:
    """The columns COSTS: trained parameters without the head's, bytes of the optimizer's state."""
    trained = [(f".{name}", p) for name, p in model.named_parameters() if p.requires_grad]
    state = (value for of_one in optimizer.state.values() for value in of_one.values())
    return {
        "parameters": sum(p.numel() for name, p in trained if ".head." not in name),
        "optimizer bytes": sum(t.nbytes for t in state if isinstance(t, Tensor)),
        "seconds": round(seconds, 1),
    }
