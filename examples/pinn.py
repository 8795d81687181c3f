"""Solves -u'' = f on (0, 1), u(0) = u(1) = 0, with small networks: a physics-informed loss.

    python examples/pinn.py --out runs/pinn

u(x) = x (1 - x) N(2 x - 1) meets the boundary values, and the loss is the mean of (u'' + f)^2 over
100 points, so that training differentiates the network three times. f is chosen for the solution
u = sin(pi x) + sin(4 pi x) / 2. Every network has two hidden layers and as many parameters, to 2 %,
and gets the same steps of Adam, then of L-BFGS.

A rational whose F' jumps gives a u' that jumps, and u'', taken point by point, does not see it:

    [u'(1) - u'(0)] - integral of u''

is the sum of those jumps. It is zero for a smooth network, and nothing in the loss holds it down.

Writes results.csv.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import kat
from kat.tables import write_table
from kat.training.record.provenance import PROVENANCE, provenance

WIDTH = 32
GROUPS = 4
COLLOCATION = 100
EVALUATION = 20_000
COLUMNS = (
    "network", "seed", "parameters", "error_adam", "lbfgs", "error", "residual", "jumps", "seconds",
)  # fmt: skip


def main() -> None:
    """Trains every network with every seed, prints the table and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--adam", type=int, default=400, help="steps of Adam")
    parser.add_argument("--lbfgs", type=int, default=150, help="steps of L-BFGS")
    parser.add_argument("--out", type=Path, default=Path("runs/pinn"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [(name, seed) for name in options.networks for seed in options.seeds]
    rows = [run(options, *each) for each in track(runs, "training")]
    report(rows)
    made_by = provenance(torch.device("cpu"))
    columns = (*COLUMNS, *PROVENANCE)
    write_table(options.out / "results.csv", columns, [row | made_by for row in rows])
    print(f"everything is in {options.out}")


def exact(x: Tensor) -> Tensor:
    """The solution u."""
    return torch.sin(math.pi * x) + torch.sin(4 * math.pi * x) / 2


def source(x: Tensor) -> Tensor:
    """f = -u''."""
    return math.pi**2 * (torch.sin(math.pi * x) + 8 * torch.sin(4 * math.pi * x))


def mlp() -> nn.Sequential:
    """Two hidden layers with tanh, one unit wider, which makes up for the coefficients."""
    width = WIDTH + 1
    net = nn.Sequential(
        nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    )
    for layer in net[2::2]:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net


def grkan(form: str) -> nn.Sequential:
    """A linear map and two GR-KAN layers."""
    options: dict[str, Any] = {"num_groups": GROUPS, "form": form}
    return nn.Sequential(
        nn.Linear(1, WIDTH),
        kat.GRKANLinear(WIDTH, WIDTH, **options),
        kat.GRKANLinear(WIDTH, 1, **options),
    )


def grkan_even() -> nn.Sequential:
    """Form A, with b_j = 0 for odd j for good: then Q has even powers alone, and no kink."""
    net = grkan("A")
    kat.nn.keep_even(net)
    return net


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], float]] = {
    "tanh MLP": (mlp, 1e-3),
    "GR-KAN, form A": (lambda: grkan("A"), 5e-3),
    "GR-KAN, form B": (lambda: grkan("B"), 5e-3),
    "GR-KAN, even": (grkan_even, 5e-3),
}
"""By name: how the network is made, and Adam's first learning rate.

The rate is the best of 1e-3, 5e-3 and 2e-2 for the MLP, of 2e-3, 5e-3 and 1e-2 for even GR-KAN.
"""


def run(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """Trains one network, and returns its row of the table."""
    make, lr = NETWORKS[name]
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    net = make()
    nn.init.xavier_normal_(net[0].weight)
    nn.init.uniform_(net[0].bias, -1, 1)
    start = time.perf_counter()
    adam(net, options.adam, lr)
    error_adam = relative_error(net)
    steps = lbfgs(net, options.lbfgs)
    seconds = time.perf_counter() - start
    x = midpoints(EVALUATION)
    _, _, u2 = solution(net, x)
    ends = solution(net, torch.tensor([[0.0], [1.0]]))[1]
    return {
        "network": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in net.parameters()),
        "error_adam": error_adam,
        "lbfgs": steps,
        "error": relative_error(net),
        "residual": (u2 + source(x)).square().mean().sqrt().item(),
        "jumps": (ends[1] - ends[0] - u2.mean()).item(),
        "seconds": seconds,
    }


def midpoints(count: int) -> Tensor:
    """The middles of ``count`` equal parts of (0, 1), as (count, 1)."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / count)[:, None]


def solution(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u, u' and u'' at the points x, differentiable for the parameters."""
    x = x.detach().requires_grad_()
    u = x * (1 - x) * net(2 * x - 1)
    (u1,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (u2,) = torch.autograd.grad(u1.sum(), x, create_graph=True)
    return u, u1, u2


def residual_loss(net: nn.Module) -> Tensor:
    """The mean of (u'' + f)^2 over the collocation points."""
    x = midpoints(COLLOCATION)
    return (solution(net, x)[2] + source(x)).square().mean()


def adam(net: nn.Module, steps: int, lr: float) -> None:
    """Adam with a learning rate that falls to zero along a cosine."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        residual_loss(net).backward()
        optimizer.step()
        schedule.step()


def lbfgs(net: nn.Module, steps: int) -> int:
    """L-BFGS with a strong Wolfe line search; returns the steps that it took before it stopped."""
    optimizer = torch.optim.LBFGS(
        net.parameters(),
        max_iter=steps,
        history_size=50,
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = residual_loss(net)
        loss.backward()
        return loss

    optimizer.step(closure)
    return next(iter(optimizer.state.values()))["n_iter"]


@torch.no_grad()
def relative_error(net: nn.Module) -> float:
    """||u - exact|| / ||exact|| over the evaluation points."""
    x = midpoints(EVALUATION)
    u = x * (1 - x) * net(2 * x - 1)
    return ((u - exact(x)).norm() / exact(x).norm()).item()


def report(rows: list[dict[str, Any]]) -> None:
    """Prints, for each network, the median over the seeds and the range of the errors."""
    table = Table(title="-u'' = f on (0, 1): median over the seeds", title_justify="left")
    columns = (
        "error after Adam", "L-BFGS", "error", "best to worst", "residual", "jumps", "seconds",
    )  # fmt: skip
    for name in ("network", "parameters", *columns):
        table.add_column(name, justify="left" if name == "network" else "right")
    for network in dict.fromkeys(row["network"] for row in rows):
        runs = [row for row in rows if row["network"] == network]
        errors = [row["error"] for row in runs]
        table.add_row(
            network,
            f"{runs[0]['parameters']:,}",
            median(runs, "error_adam"),
            f"{statistics.median(row['lbfgs'] for row in runs)}",
            median(runs, "error"),
            f"{min(errors):.1e} to {max(errors):.1e}",
            median(runs, "residual"),
            median(runs, "jumps"),
            f"{statistics.median(row['seconds'] for row in runs):.1f}",
        )
    Console(width=130).print(table)


def median(rows: list[dict[str, Any]], column: str) -> str:
    """The median size of a column."""
    return f"{statistics.median(abs(row[column]) for row in rows):.1e}"


if __name__ == "__main__":
    main()
