"""Divergence of the groups of ``kat.param_groups`` beside the same network with GELU.

    python benchmarks/sgd.py --csv benchmarks/results/sgd.csv

Two GR-KAN MLPs (width, 4 width, width) in a row learn a random two-layer function of Gaussian
inputs: 200 steps of 256 new samples, mean squared error. ``gelu`` has nn.GELU in the place of act2
and nothing in the place of act1, from the same initial weights; F starts as GELU and the identity.
``frozen`` has the rationals with frozen coefficients, which tells what their steps add.
A run has diverged if its loss on 1,024 other samples is not finite, or above its start, after the
last step. ``moved`` is the root mean square of F's change for x ~ N(0, 1), relative to F, a mean
over the functions of runs that did not diverge. Muon is torch's for the matrices, with AdamW at
the same rate for the rest; AdamW has no momentum to choose.
"""

from __future__ import annotations

import argparse
import math
import statistics
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from timing import header, print_table, write_csv
from torch import Tensor, nn

import kat
from kat.nn import rationals

WIDTHS = (32, 256)
RATES = (1e-3, 1e-2, 1e-1, 1.0)
OPTIMIZERS = {"sgd": (0.0, 0.9), "adamw": (0.0,), "muon": (0.9,)}
"""The momenta of each optimizer."""
COLUMNS = ("optimizer", "width", "lr", "momentum", "seed", "arm", "start", "loss", "moved")


class Run(NamedTuple):
    """The outcome of one run: loss at the start and at the end, and F's relative change."""

    start: float
    loss: float
    moved: float

    @property
    def diverged(self) -> bool:
        """True if the loss at the end is not finite or above its start."""
        return not self.loss <= self.start


def main() -> None:
    """Run all settings and print a table for each optimizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--optimizers", nargs="+", default=["sgd"], choices=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--csv", type=Path, help="write a row for each run to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(header("cpu"))
    rows, table = [], []
    for name in options.optimizers:
        for width, lr, momentum in product(WIDTHS, RATES, OPTIMIZERS[name]):
            shown = []
            for arm in ("gelu", "frozen", "rational"):
                runs = [train(name, width, lr, momentum, s, arm) for s in range(options.seeds)]
                rows += [[name, width, lr, momentum, s, arm, *run] for s, run in enumerate(runs)]
                kept = [run for run in runs if not run.diverged]
                shown += [
                    str(len(runs) - len(kept)),
                    f"{statistics.mean(run.loss for run in kept):.4f}" if kept else "-",
                ]
            moved = f"{statistics.mean(run.moved for run in kept):.2f}" if kept else "-"
            table.append([name, str(width), f"{lr:g}", f"{momentum:g}", *shown, moved])
    print_table(
        ["optimizer", "width", "lr", "momentum", "gelu diverged", "loss", "frozen diverged",
         "loss", "rational diverged", "loss", "moved"],
        table,
    )  # fmt: skip
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def train(optimizer: str, width: int, lr: float, momentum: float, seed: int, arm: str) -> Run:
    """Train once."""
    torch.manual_seed(seed)
    teacher = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))
    for layer in (teacher[0], teacher[2]):
        nn.init.normal_(layer.weight, std=width**-0.5)
    teacher.requires_grad_(False)
    mlps = [kat.GRKANMlp(width, 4 * width, act_init="gelu") for _ in range(2)]
    model = nn.Sequential(*mlps)
    if arm == "gelu":
        for mlp in mlps:
            mlp.act1, mlp.act2 = nn.Identity(), nn.GELU()
    for act in rationals(model).values():
        act.requires_grad_(arm == "rational")
    held_out = torch.randn(1024, width)

    def loss_of(x: Tensor) -> Tensor:
        return (model(x) - teacher(x)).square().mean()

    def functions() -> list[Tensor]:
        x = torch.linspace(-4, 4, 801)
        weights = torch.exp(-x.square() / 2)[:, None].sqrt()
        with torch.no_grad():
            return [
                weights * kat.rational(x[:, None].expand(-1, 8), *act.parameters(), form=act.form)
                for act in rationals(model).values()
            ]

    with torch.no_grad():
        start = loss_of(held_out).item()
    before = functions()
    optimizers = make_optimizers(optimizer, model, lr, momentum)
    for _ in range(200):
        loss = loss_of(torch.randn(256, width))
        if not loss.isfinite():
            return Run(start, math.inf, math.nan)
        model.zero_grad()
        loss.backward()
        for each in optimizers:
            each.step()
    with torch.no_grad():
        end = loss_of(held_out).item()
    changes = [
        ((new - old).norm() / old.norm()).item()
        for new, old in zip(functions(), before, strict=True)
    ]
    moved = statistics.mean(changes) if changes else 0.0
    return Run(start, end if math.isfinite(end) else math.inf, moved)


def make_optimizers(
    name: str, model: nn.Module, lr: float, momentum: float
) -> list[torch.optim.Optimizer]:
    """The optimizers as docs/own-model.md makes them."""
    groups = kat.param_groups(model, lr=lr)
    if name == "sgd":
        return [torch.optim.SGD(groups, lr=lr, momentum=momentum)]
    if name == "adamw":
        return [torch.optim.AdamW(groups, weight_decay=0)]
    coefficients = {p for act in rationals(model).values() for p in act.parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and p not in coefficients]
    rest = [p for p in trained if p.ndim < 2 or p in coefficients]
    muon = torch.optim.Muon(matrices, lr=lr, momentum=momentum, weight_decay=0)
    return [muon, torch.optim.AdamW(rest, lr=lr, weight_decay=0)]


if __name__ == "__main__":
    main()
