"""Times a step of a physics-informed loss, which differentiates a network three times."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import Tensor, nn

import kat

DTYPES = {"float32": torch.float32, "float64": torch.float64}
COLUMNS = ("width", "points", "dtype", "network", "ms", "/GELU")
EPILOG = """\
The loss is the mean of (u_xx + u_yy)^2 at random points of the plane; a step is that, its gradient
for the parameters, and nothing else. u is a network of two residual MLPs, three times as wide
inside:

  GELU       linear, GELU, linear
  GR-KAN     kat.GRKANMlp; "reference": with impl="reference", plain PyTorch to every order
  gated      kat.GatedGRKANMlp, two thirds as wide inside; "reference" as above

The networks take turns and report their medians. /GELU is the ratio to GELU's time.

Examples
  python benchmarks/second_order.py
  python benchmarks/second_order.py --widths 32 --points 128 --dtypes float64 --csv second_order.csv
"""


class Net(nn.Module):
    """u: points (n, 2) to numbers (n,)."""

    def __init__(self, width: int, mlp: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, width), nn.Linear(width, 1)
        self.mlps = nn.ModuleList([mlp(width), mlp(width)])

    def forward(self, p: Tensor) -> Tensor:
        x = self.first(p)
        for mlp in self.mlps:
            x = x + mlp(x)
        return self.last(x)[:, 0]


def plain(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))


def grkan(width: int, impl: str | None = None) -> nn.Module:
    return kat.GRKANMlp(width, 3 * width, impl=impl)


def gated(width: int, impl: str | None = None) -> nn.Module:
    return kat.GatedGRKANMlp(width, 2 * width, impl=impl)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "GELU": plain,
    "GR-KAN": grkan,
    "GR-KAN, reference": partial(grkan, impl="reference"),
    "gated": gated,
    "gated, reference": partial(gated, impl="reference"),
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--widths", type=int, nargs="+", default=[32, 128], help="multiples of 8 (32 128)")
    add("--points", type=int, nargs="+", default=[128, 1024], help="of a step (128 1024)")
    add("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--seconds", type=float, default=5.0, help="for each line of the networks; default 5")
    add("--threads", type=int, help="default: torch's choice")
    add("--csv", type=Path, metavar="PATH", help="also write the table there")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(header(options.device))
    rows = [
        row
        for width in options.widths
        for points in options.points
        for dtype in options.dtypes
        for row in measure(width, points, dtype, options)
    ]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)
    return 0


def measure(
    width: int, points: int, dtype: str, options: argparse.Namespace
) -> list[list[str | float]]:
    torch.manual_seed(0)
    place = {"device": options.device, "dtype": DTYPES[dtype]}
    p = torch.rand(points, 2, **place)
    nets = {name: Net(width, mlp).to(**place) for name, mlp in NETWORKS.items()}
    steps = {name: partial(step, net, p) for name, net in nets.items()}
    times = medians(take_turns(steps, options.seconds, options.device))
    return [
        [str(width), str(points), dtype, name, ms, ms / times["GELU"]] for name, ms in times.items()
    ]


def step(net: nn.Module, p: Tensor) -> None:
    """The gradient of the loss for the parameters."""
    p = p.detach().requires_grad_()
    gradient = partial(torch.autograd.grad, create_graph=True)
    (first,) = gradient(net(p).sum(), p)
    second = [gradient(first[:, i].sum(), p)[0][:, i] for i in range(2)]
    loss = torch.stack(second).sum(0).square().mean()
    torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)  # u's bias drops out


if __name__ == "__main__":
    raise SystemExit(main())
