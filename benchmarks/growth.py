"""Times against the size of batch and width, and memory over many steps: a table and a plot.

    python benchmarks/growth.py --csv growth.csv --plot growth.png
    python benchmarks/growth.py --device cuda

First kat.rational for widths of 192 to 3072 and batches of 1 to 64 of 197 tokens, beside a copy and
GELU; then ``GRKANMlp`` beside timm's ``Mlp`` for the widths of KAT-T, S and B, without the cells
that take seconds. A cell's candidates take turns; times are medians in ms. At last the memory that
2,000 training steps hold, of KAT-T's MLP for batches that change from step to step.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from memory import resident
from timing import header, medians, print_table, take_turns, write_csv
from torch import Tensor
from torch.nn import functional

import kat

TOKENS = 197
BATCHES = (1, 4, 16, 64)
OP_WIDTHS = (192, 384, 768, 1536, 3072)
MLP_WIDTHS = (192, 384, 768)
COLUMNS = ("what", "pass", "width", "batch", "kat ms", "other ms", "ratio", "copy ms", "/copy")


def main() -> None:
    """Measures, prints, and writes what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each cell")
    parser.add_argument("--steps", type=int, default=2000, help="of training, for the memory")
    parser.add_argument("--csv", type=Path, help="write the table there, the memory beside it")
    parser.add_argument("--plot", type=Path, help="also draw it there")
    options = parser.parse_args()
    print(header(options.device))
    rows = [*op_rows(options), *mlp_rows(options)]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)
    if options.plot:
        draw(rows, options.plot)
    held = [[step, f"{megabytes:.1f}"] for step, megabytes in memory(options)]
    print("\nMB held after steps of training:")
    print("  ".join(f"{step}: {megabytes}" for step, megabytes in held))
    if options.csv:
        path = options.csv.with_stem(f"{options.csv.stem}_memory")
        write_csv(path, options.device, ("steps", "MB held"), held)


def op_rows(options: argparse.Namespace) -> list[list[Any]]:
    """kat.rational beside GELU, forward and with the backward pass; forward beside a copy."""
    rows = []
    for width, batch in itertools.product(OP_WIDTHS, options.batches):
        act = kat.GroupRational(init="gelu", device=options.device)
        x = torch.randn(batch, TOKENS, width, device=options.device)
        functions: dict[str, Callable[[Tensor], Tensor]] = {"kat": act, "other": functional.gelu}
        for passes, steps in passes_of(functions, x).items():
            if passes == "forward":
                steps["copy"] = x.clone
            rows.append(row("rational, GELU", passes, width, batch, steps, options))
    return rows


def mlp_rows(options: argparse.Namespace) -> list[list[Any]]:
    """GRKANMlp beside timm's Mlp."""
    rows = []
    for width, batch in itertools.product(MLP_WIDTHS, options.batches):
        if width * batch > 192 * 64:  # seconds a step
            continue
        make = {"kat": kat.GRKANMlp, "other": timm.layers.Mlp}
        mlps = {n: m(width, 4 * width).to(options.device) for n, m in make.items()}
        x = torch.randn(batch, TOKENS, width, device=options.device)
        for passes, steps in passes_of(mlps, x).items():
            rows.append(row("GRKANMlp, Mlp", passes, width, batch, steps, options))
    return rows


def passes_of(functions: dict[str, Any], x: Tensor) -> dict[str, dict[str, Callable[[], Any]]]:
    """By pass: the step of each function."""

    def forward(function: Any) -> Callable[[], Any]:
        return lambda: torch.no_grad()(function)(x)

    recorded = x.clone().requires_grad_()
    grad = None

    def backward(function: Any) -> Callable[[], Any]:
        def step() -> None:
            nonlocal grad
            y = function(recorded)
            if grad is None:
                grad = torch.ones_like(y)
            recorded.grad = None
            y.backward(grad)

        return step

    return {
        "forward": {name: forward(function) for name, function in functions.items()},
        "forward+backward": {name: backward(function) for name, function in functions.items()},
    }


def row(
    what: str,
    passes: str,
    width: int,
    batch: int,
    steps: dict[str, Callable[[], Any]],
    options: argparse.Namespace,
) -> list[Any]:
    """One line of the table."""
    times = medians(take_turns(steps, options.seconds, options.device))
    ours, other, copy = (times.get(name, float("nan")) for name in ("kat", "other", "copy"))
    return [what, passes, str(width), str(batch), ours, other, ours / other, copy, ours / copy]


def memory(options: argparse.Namespace) -> list[tuple[int, float]]:
    """The megabytes held at every tenth of the steps, whose batch changes from step to step."""
    torch.manual_seed(0)
    mlp = kat.GRKANMlp(192, 768).to(options.device)
    optimizer = torch.optim.AdamW(kat.param_groups(mlp, lr=1e-3))
    found = []
    for step in range(1, options.steps + 1):
        x = torch.randn(1 + 7 * step % 16, TOKENS, 192, device=options.device)
        optimizer.zero_grad()
        mlp(x).square().mean().backward()
        optimizer.step()
        if step % max(1, options.steps // 10) == 0:
            held = torch.cuda.memory_allocated() if x.is_cuda else resident("VmRSS")
            found.append((step, held / 1e6))
    return found


def draw(rows: list[list[Any]], path: Path) -> None:
    """Time against batch, a line a width: kat solid, the other dashed."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys((row[0], row[1]) for row in rows))
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=False):  # or no MLPs
        inside = [row for row in rows if (row[0], row[1]) == panel]
        for i, width in enumerate(dict.fromkeys(row[2] for row in inside)):
            line = [row for row in inside if row[2] == width]
            batches = [int(row[3]) for row in line]
            axes.plot(batches, [row[4] for row in line], "o-", ms=3, color=f"C{i}", label=width)
            axes.plot(batches, [row[5] for row in line], "--", lw=1, color=f"C{i}")
        axes.set(xscale="log", yscale="log", xlabel="batch of 197 tokens", ylabel="ms")
        axes.set_title(f"{panel[0]}: {panel[1]}", fontsize=10)
        axes.legend(title="width", fontsize=8, title_fontsize=8)
    figure.suptitle("Solid: kat; dashed: the other", fontsize=11)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
