"""Times a KAT's MLP against timm's, and counts the bytes that each keeps for the backward pass.

    python benchmarks/mlp.py
    python benchmarks/mlp.py --shapes base --batch 128 --device cuda --amp --compile
    python benchmarks/mlp.py --shapes micro --batch 2 --tokens 1

  gelu        timm's Mlp with nn.GELU
  fused       GRKANMlp: keeps its inputs alone, and computes F(x) again in the backward pass; a
              small call on a CPU runs as the modules
  plain       GRKANMlp(keep="all"): keeps F(x) as well
  sequential  the same rationals and linear maps in an nn.Sequential

The candidates take turns; times are medians in ms, ratios are to timm's Mlp. Saved bytes are those
of the tensors that autograd holds between the passes, parameters left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from memory import kept_bytes
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from timm.layers import Mlp
from torch import Tensor, nn
from train_step import autocast

import kat

WIDTHS = {"micro": 16, "tiny": 192, "small": 384, "base": 768}
COLUMNS = (
    "shape", "MLP", "forward", "forward ratio", "forward+backward", "forward+backward ratio",
    "saved MB", "saved ratio",
)  # fmt: skip


def main() -> None:
    """Measures each shape and prints the table."""
    options = parse()
    keep_freed_memory()
    print(header(options.device))
    rows = [row for name in options.shapes for row in measure(name, options)]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=WIDTHS, default=list(WIDTHS)[1:])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        help="autocast, to bfloat16 if no dtype is named",
    )
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each shape and pass")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    return parser.parse_args(arguments)


def measure(name: str, options: argparse.Namespace) -> list[list[str | float]]:
    """One row a candidate."""
    torch.manual_seed(0)
    width = WIDTHS[name]
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    mlps: dict[str, nn.Module] = {
        "gelu": Mlp(width, 4 * width, **place),
        "fused": kat.GRKANMlp(width, 4 * width, **place),
        "plain": kat.GRKANMlp(width, 4 * width, keep="all", **place),
    }
    own = kat.GRKANMlp(width, 4 * width, **place)
    mlps["sequential"] = nn.Sequential(own.act1, own.fc1, own.act2, own.fc2)
    if options.compile:
        torch.compiler.reset()  # its limit of recompilations would leave later shapes uncompiled
        mlps = {label: torch.compile(mlp, dynamic=False) for label, mlp in mlps.items()}
    x = torch.randn(options.batch, options.tokens, width, **place, requires_grad=True)
    grad = torch.randn_like(x)

    def time(step: Callable[..., Callable[[], None]]) -> dict[str, float]:
        steps = {label: step(mlp, x, grad) for label, mlp in mlps.items()}
        with autocast(options):
            return medians(take_turns(steps, options.seconds, options.device))

    forward, both = time(forward_step), time(both_step)
    with autocast(options):
        saved = {label: kept_bytes(mlp, x) / 1e6 for label, mlp in mlps.items()}
    columns = (forward, both, saved)
    shape = f"{options.batch}x{options.tokens}x{width}"
    return [
        [shape, label, *(v for c in columns for v in (c[label], c[label] / c["gelu"]))]
        for label in mlps
    ]


def forward_step(mlp: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """A forward pass without gradients."""

    @torch.no_grad()
    def step() -> None:
        mlp(x)

    return step


def both_step(mlp: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], None]:
    """A forward and a backward pass, gradients of x and all parameters."""

    def step() -> None:
        mlp.zero_grad()
        x.grad = None
        y = mlp(x)
        y.backward(grad.to(y.dtype))

    return step


if __name__ == "__main__":
    main()
