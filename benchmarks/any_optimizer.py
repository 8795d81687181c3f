"""Training with each optimizer of torch and timm: rationals beside fixed activations.

    python benchmarks/any_optimizer.py --csv benchmarks/results/any_optimizer.csv

``kat.GRKANMlp(16, 64)`` learns 40 random points, 30 steps, mean squared error. ``fixed`` is the MLP
with SiLU from the same initial weights, ``grkan`` has the groups of ``kat.param_groups``. A cell is
the loss after the last step relative to the loss before the first one, the median of the seeds. A
dagger marks a rational that has not learned where the fixed activation has.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from timing import header, print_table, write_csv
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import kat

TORCH = (
    "SGD", "ASGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adagrad", "Adadelta", "Adafactor",
    "RMSprop", "Rprop", "LBFGS",
)  # fmt: skip
TIMM = (
    "sgdw", "sgdp", "lars", "lamb", "lion", "adafactor", "adafactorbv", "adabelief", "radabelief",
    "adamp", "adan", "adopt", "laprop", "madgrad", "mars", "muon", "novograd", "kron",
    "rmsproptf", "lookahead_adamw", "cadamw",
)  # fmt: skip
RATES = (1e-3, 1e-2, 1e-1)
STEPS, SEEDS = 30, 3
COLUMNS = ("optimizer", "lr", "seed", "arm", "relative_loss")


def main() -> None:
    """Train with all optimizers and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--csv", type=Path, help="write a row for each run to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, table = [], []
    for name in (*TORCH, *(f"timm {name}" for name in TIMM)):
        cells = []
        for lr in RATES:
            losses = {}
            for arm in ("fixed", "grkan"):
                found = [relative_loss(name, arm, lr, seed) for seed in range(SEEDS)]
                rows += [(name, lr, str(seed), arm, loss) for seed, loss in enumerate(found)]
                losses[arm] = statistics.median(found)
            mark = "" if losses["grkan"] < 1 or not losses["fixed"] < 1 else " †"
            cells.append(f"{losses['fixed']:.2g} / {losses['grkan']:.2g}{mark}")
        table.append([name, *cells])
    print(header("cpu"))
    print_table(["optimizer, fixed / grkan", *(f"lr {lr}" for lr in RATES)], table)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def relative_loss(name: str, arm: str, lr: float, seed: int) -> float:
    """The loss after training, relative to the loss before it."""
    torch.manual_seed(seed)
    model: nn.Module = kat.GRKANMlp(16, 64)
    if arm == "fixed":
        model = nn.Sequential(model.fc1, nn.SiLU(), model.fc2)
    x, target = torch.randn(40, 16), torch.randn(40, 16)
    optimizer = make_optimizer(name, model, lr)

    def loss() -> Tensor:
        return (model(x) - target).square().mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    before = loss().item()
    for _ in range(STEPS):
        optimizer.step(closure)
    return loss().item() / before


def make_optimizer(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """An optimizer of torch, or of timm by its name there."""
    if name == "LBFGS":  # it has no groups
        return torch.optim.LBFGS(model.parameters(), lr=lr, line_search_fn="strong_wolfe")
    groups = kat.param_groups(model, lr)
    if name in TORCH:
        make: Callable[..., torch.optim.Optimizer] = getattr(torch.optim, name)
        return make(groups, lr=lr)
    return create_optimizer_v2(groups, opt=name.removeprefix("timm "), lr=lr)


if __name__ == "__main__":
    main()
