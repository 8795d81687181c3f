"""Times the gate F(x) v and the gated MLP against SiLU(x) v and SwiGLU; prints a table."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import kept_bytes
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from timm.layers import SwiGLU, SwiGLUPacked
from torch import Tensor, nn

import kat

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PASSES = ("forward", "forward+backward")
COLUMNS = ("what", "rows", "width", "dtype", "pass", "candidate", "ms", "/silu", "kept")
EPILOG = """\
What is timed
  gate   F(x) v for x and v (rows, width): kat.gated_rational ("kat"), kat.rational(x) * v ("two
         operators") and F.silu(x) * v ("silu"), each also compiled; 8 groups, a shared numerator
  mlp    of model width 3 / 8 of the gate's: kat.GatedGRKANMlp ("kat", "kat packed") and timm's
         SwiGLU ("silu") and SwiGLUPacked ("silu packed")

The candidates take turns and report their medians. /silu is the share of silu's time. kept is what
autograd keeps for the backward pass, parameters apart, in arrays of the gate's size.

Examples
  python benchmarks/gated.py --rows 3152 --widths 512
  python benchmarks/gated.py --csv gated.csv
  python benchmarks/gated.py --device cuda --widths 2048 --rows 65536
"""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(header(options.device))
    rows = []
    for what in options.what:
        for width in options.widths:
            for dtype in options.dtypes:
                rows += measure(what, width, dtype, options)
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--what", nargs="+", choices=("gate", "mlp"), default=["gate", "mlp"])
    add("--rows", type=int, default=16 * 197, help="tokens; default 3152, 16 images of 197")
    add("--widths", type=int, nargs="+", default=[512, 2048], help="of the gate (512 2048)")
    add("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--no-compile", action="store_true", help="leave out what is compiled")
    add("--seconds", type=float, default=1.0, help="for each pass; default 1")
    add("--threads", type=int, help="default: torch's choice")
    add("--csv", type=Path, metavar="PATH", help="also write the table there")
    return parser.parse_args(arguments)


def measure(
    what: str, width: int, dtype: str, options: argparse.Namespace
) -> list[list[str | float]]:
    torch.manual_seed(0)
    place = {"device": options.device, "dtype": DTYPES[dtype]}
    inputs = 2 if what == "gate" else 1
    size = width if what == "gate" else 3 * width // 8
    xs = [torch.randn(options.rows, size, **place).requires_grad_() for _ in range(inputs)]
    grad = torch.randn(options.rows, size, **place)
    modules = mlps(width, size, place) if what == "mlp" else gates(options)
    rows: list[list[str | float]] = []
    for passes in PASSES:
        steps = {
            name: step(module, xs, grad, backward=passes != "forward")
            for name, module in modules.items()
        }
        times = medians(take_turns(steps, options.seconds, options.device))
        for name, milliseconds in times.items():
            kept = kept_bytes(modules[name], *xs) / (options.rows * width * grad.element_size())
            ratio = milliseconds / times["silu"]
            cell = (what, options.rows, width, dtype, passes, name)
            rows.append([*cell, milliseconds, ratio, kept])
    return rows


def gates(options: argparse.Namespace) -> dict[str, Callable[..., Tensor]]:
    torch.compiler.reset()  # its limit of recompilations would leave later cells uncompiled
    act = kat.GroupRational(device=options.device)
    a, b = act.weight_numerator, act.weight_denominator
    functions: dict[str, Callable[..., Tensor]] = {
        "kat": lambda x, v: kat.gated_rational(x, v, a, b),
        "two operators": lambda x, v: kat.rational(x, a, b) * v,
        "silu": lambda x, v: F.silu(x) * v,
    }
    if options.no_compile:
        return functions
    return functions | {
        f"{name}, compiled": torch.compile(f, dynamic=False) for name, f in functions.items()
    }


def mlps(width: int, size: int, place: dict) -> dict[str, nn.Module]:
    return {
        "kat": kat.GatedGRKANMlp(size, width, **place),
        "silu": SwiGLU(size, width, **place),
        "kat packed": kat.GatedGRKANMlp(size, 2 * width, packed=True, **place),
        "silu packed": SwiGLUPacked(size, 2 * width, **place),
    }


def step(
    function: Callable[..., Tensor], xs: list[Tensor], grad: Tensor, *, backward: bool
) -> Callable[[], None]:
    def run() -> None:
        with torch.set_grad_enabled(backward):
            y = function(*xs)
        if backward:
            for x in xs:
                x.grad = None
            y.backward(grad)

    return run


if __name__ == "__main__":
    raise SystemExit(main())
