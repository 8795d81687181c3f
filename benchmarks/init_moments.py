"""The second moment through a stack of GR-KAN MLPs, and of the gradient back through it.

    python benchmarks/init_moments.py --csv benchmarks/results/init_moments.csv

Unit-normal input goes through 12 GR-KAN MLPs (width 192, hidden 768, no residual, no norm); the
table gives E[x^2] after each, and E[g^2] before each for a unit-normal gradient at the end, both
averaged over draws of the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timing import write_csv

import kat

WIDTH = 192
CASES = (
    ("variance_preserving", "swish"),
    ("variance_preserving", "gelu"),
    ("variance_preserving", "relu"),
    ("variance_preserving", "tanh"),
    ("centered", "swish"),
    ("centered", "gelu"),
    ("kaiming", "swish"),
    ("trunc_normal", "swish"),
)


def main() -> None:
    """Prints the table, and writes it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20, help="draws of the weights")
    parser.add_argument("--depth", type=int, default=12, help="MLPs in the stack")
    parser.add_argument("--csv", type=Path, help="write the table to this file")
    options = parser.parse_args()
    rows = []
    for scheme, act_init in CASES:
        moments = measure(scheme, act_init, options.depth, options.draws)
        for direction, values in zip(("forward", "backward"), moments, strict=True):
            rows.append([scheme, act_init, direction, *(f"{value:.3g}" for value in values)])
    header = ["scheme", "second rational", "direction", *(str(i + 1) for i in range(options.depth))]
    table = Table(
        *header, title=f"second moments, mean of {options.draws} draws, kat {kat.__version__}"
    )
    for row in rows:
        table.add_row(*row)
    Console(width=160).print(table)
    if options.csv:
        write_csv(options.csv, "cpu", header, rows)


def measure(scheme: str, act_init: str, depth: int, draws: int) -> tuple[list[float], list[float]]:
    """E[x^2] after each MLP and E[g^2] before each, both over 64 inputs and all draws."""
    forward, backward = torch.zeros(depth), torch.zeros(depth)
    for draw in range(draws):
        torch.manual_seed(draw)
        options = {"weight_init": scheme, "act_init": act_init}
        states = [torch.randn(64, WIDTH, requires_grad=True)]
        for _ in range(depth):
            states.append(kat.GRKANMlp(WIDTH, 4 * WIDTH, **options)(states[-1]))
            states[-1].retain_grad()
        states[-1].backward(torch.randn(64, WIDTH))
        forward += torch.stack([x.detach().square().mean() for x in states[1:]]) / draws
        backward += torch.stack([x.grad.square().mean() for x in states[:-1]]) / draws
    return forward.tolist(), backward.tolist()


if __name__ == "__main__":
    main()
