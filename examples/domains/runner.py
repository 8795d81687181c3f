"""The runner of the domains: options, the runs of all arms, and the table.

    runner.py     from the command line to the table, the same for every domain
    options.py    the options of the command line
    rows.py       rows of the CSV file, the choice of the rate, differences
    summary.py    the tables of errors, differences and ranks
    training.py   the loop of one run, and its checkpoints
    layers.py     the MLPs of the arms
    plan.py       runs what plan.yaml declares

Every measure is an error: less is better. Each arm tries the same number of learning rates.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from layers import REFERENCES
from options import check_writable, make_parser
from rows import IDENTITY, Rates, Runs
from summary import print_errors, print_ranks
from torch import nn

from kat.training.record.provenance import provenance

COLUMNS = ("task", *IDENTITY, "rate", "steps", "parameters", "valid", "test", "seconds")


class Trial(NamedTuple):
    """One run: what it trains, and for how long."""

    task: str
    arm: str
    rate: float
    seed: int
    steps: int
    device: torch.device
    checkpoint: Path
    tuning: bool = False
    """It is to choose the rate; what it measures on test data is not kept."""


@dataclass
class Domain:
    """A domain and its arms.

    Args:
        doc: the text of --help.
        name: of the CSV file.
        tasks: the names of what is learned, each compared by itself.
        rates: by arm, the learning rates that it tries, as many as any other arm.
        steps: of the optimizer, unless --steps says otherwise.
        references: by arm, the one from which the differences are taken.
        columns: of the CSV file, beside :data:`COLUMNS`.
        measures: the columns that are compared, a table for each.
    """

    doc: str
    name: str
    tasks: Sequence[str]
    rates: Mapping[str, Sequence[float]]
    steps: int
    references: Mapping[str, str] = field(default_factory=lambda: REFERENCES)
    columns: Sequence[str] = ()
    measures: Sequence[str] = ("test",)

    def __post_init__(self) -> None:
        if len({len(tried) for tried in self.rates.values()}) > 1:
            raise ValueError("every arm must try the same number of learning rates")

    def parser(self) -> argparse.ArgumentParser:
        """The options that all domains have; a domain may add to them."""
        return make_parser(self.doc, self.name, list(self.tasks), list(self.rates), self.steps)

    def runs(self, csv: Path, task: str, steps: int) -> Runs:
        """The runs of a task that are in a CSV file, and those that will be."""
        settings = {"task": task, "steps": steps}
        return Runs(csv, (*COLUMNS, *self.columns), ["rate"], settings, "valid", min)

    def main(
        self, options: argparse.Namespace, run: Callable[[Trial], tuple[nn.Module, Any]]
    ) -> None:
        """Makes the runs that the CSV file lacks, and prints the tables.

        ``run`` makes one and returns the model, for its size, and the columns that it measured.

        Raises:
            SystemExit: the CSV file cannot be written, or Ctrl-C.
        """
        if not options.table:
            check_writable(options.csv)
        means: dict[str, list[dict[str, float]]] = {measure: [] for measure in self.measures}
        for task in options.task:
            runs = self.runs(options.csv, task, options.steps)
            make = partial(self.row, options, task, run)
            if not options.table:
                tries = {arm: [{"rate": rate} for rate in self.rates[arm]] for arm in options.arm}
                try:
                    runs.make(tries, options.seed, make)
                except KeyboardInterrupt:
                    print("stopped; the same command goes on from here", file=sys.stderr)
                    raise SystemExit(130) from None
            tested = runs.tested(self.rates)
            if not tested:
                print(f"\n{task}: no test after {options.steps} steps in {options.csv}")
                continue
            for measure in self.measures:
                print(f"\n{task}: {measure} error after {options.steps} steps, 95 % intervals")
                print_errors(runs, measure, self.rates, self.references)
                means[measure].append({arm: runs.estimate(arm, measure).mean for arm in tested})
        for measure, of_tasks in means.items():
            print_ranks(measure, [m for m in of_tasks if m.keys() == self.rates.keys()])

    def row(
        self, options: argparse.Namespace, task: str, run: Any,
        arm: str, rates: Rates, seed: int, tuning: bool,
    ) -> dict[str, Any]:  # fmt: skip
        rate = rates["rate"]
        csv, steps = options.csv.stem, options.steps
        names = (csv, task, arm, f"{rate:g}", str(seed), str(steps), str(tuning))
        path = options.csv.with_name(f"{'-'.join(names)}.ckpt")
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"{task}, {arm}, seed {seed}, rate {rate:g}", flush=True)
        torch.manual_seed(seed)
        trial = Trial(task, arm, rate, seed, options.steps, options.device, path, tuning)
        made_by = provenance(options.device)
        model, row = run(trial)
        row["seconds"] = round(row["seconds"], 1)
        row["curve"] = " ".join(f"{when}:{error:.4f}" for when, error in row.get("curve", ()))
        row["parameters"] = sum(p.numel() for p in model.parameters())
        path.unlink(missing_ok=True)
        if tuning:  # what chooses the rate does not see the test
            row |= dict.fromkeys(self.measures, "")
        kept = (*COLUMNS, *self.columns)
        return made_by | {name: value for name, value in row.items() if name in kept}
