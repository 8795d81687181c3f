"""Times F(LayerNorm(x)) in one pass against LayerNorm and F one after the other; prints a table.

    python benchmarks/norm.py
    python benchmarks/norm.py --shapes 1x197x192 --dtype bfloat16

  act   act1(norm(x)) of nn.LayerNorm and kat.GroupRational, against kat.ops.layer_norm_rational
  mlp   mlp(norm(x)) of kat.GRKANMlp, against mlp(x, norm=norm)

The candidates take turns; times are medians in ms, forward without gradients, and forward and
backward with those of x and all parameters. Saved bytes are those that autograd holds between the
passes, parameters left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from memory import kept_bytes
from mlp import both_step, forward_step
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import Tensor, nn

import kat

COLUMNS = ("what", "shape", "dtype", "pass", "two ms", "one ms", "one / two", "saved one / two")


class OnePass(nn.Module):
    """The second module of the norm's output, in one pass with the norm where there is one."""

    def __init__(self, norm: nn.LayerNorm, module: nn.Module) -> None:
        super().__init__()
        self.norm, self.module = norm, module

    def forward(self, x: Tensor) -> Tensor:
        """module(norm(x))."""
        if isinstance(self.module, kat.GRKANMlp):
            return self.module(x, norm=self.norm)
        coefficients = self.module.weight_numerator, self.module.weight_denominator
        norm = self.norm
        return kat.ops.layer_norm_rational(
            x, norm.weight, norm.bias, *coefficients, eps=norm.eps, form=self.module.form
        )


def main() -> None:
    """Measures each shape and prints the table."""
    options = parse()
    keep_freed_memory()
    print(header(options.device))
    rows = [
        row for what in ("act", "mlp") for s in options.shapes for row in measure(what, s, options)
    ]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = ["1x197x192", "16x197x192", "1x197x768", "16x197x768"]
    parser.add_argument("--shapes", nargs="+", default=shapes, help="BATCHxTOKENSxWIDTH")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each shape and pass")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    return parser.parse_args(arguments)


def measure(what: str, shape: str, options: argparse.Namespace) -> list[list[str | float]]:
    """One row a pass."""
    torch.manual_seed(0)
    sizes = [int(size) for size in shape.split("x")]
    place = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    norm = nn.LayerNorm(sizes[-1], **place)
    of_norm = (
        kat.GRKANMlp(sizes[-1], 4 * sizes[-1], **place)
        if what == "mlp"
        else kat.GroupRational(init="identity", device=options.device)
    )
    candidates = {"two": nn.Sequential(norm, of_norm), "one": OnePass(norm, of_norm)}
    x = torch.randn(*sizes, **place, requires_grad=True)
    grad = torch.randn_like(x)
    saved = {name: kept_bytes(module, x) for name, module in candidates.items()}
    rows: list[list[str | float]] = []
    for name, step in (("forward", forward_step), ("forward+backward", both_step)):
        steps = {label: step(module, x, grad) for label, module in candidates.items()}
        times = medians(take_turns(steps, options.seconds, options.device))
        ratio = times["one"] / times["two"]
        cells = (what, shape, options.dtype, name)
        rows.append([*cells, times["two"], times["one"], ratio, saved["one"] / saved["two"]])
    return rows


if __name__ == "__main__":
    main()
