"""Times kat.rational against GELU, SiLU, a copy and the plain reference; prints a table."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import Tensor

import kat
from kat.ops import reference
from kat.ops.arguments import Rational

TOKENS = 197
WIDTHS = {"tiny": 192, "small": 384, "base": 768}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
PASSES = ("forward", "forward+backward")
CANDIDATES = ("kat", "gelu", "silu", "copy", "plain", "reference")
ARRAYS = {"forward": 2, "forward+backward": 5}
"""Arrays of x's size that a pass must at least read or write: x, y, and x, grad, dx."""
REFERENCE_ARRAYS = 30
"""About as many arrays of temporaries does the reference hold for its backward pass."""

EPILOG = """\
What is timed
  kat        kat.rational, degrees (5, 4), form A, 8 groups, a shared numerator; the backward pass
             includes the gradients of the coefficients
  gelu, silu torch.nn.functional's
  copy       the least memory traffic that such a pass has: x.clone(), and for the backward pass
             x + grad written to a third array. It is the speed limit of a pass bound by memory
  plain      with --compile: F of plain operations, which the compiler fuses
  reference  kat.rational(impl="reference"); left out where its temporaries would not fit

The candidates take turns, in changing order, so that other work on the machine hits them all, and
each reports its median; the slow reference runs after them, on its own. Ratios are of medians:
/gelu 0.60 means that kat takes 60 % of GELU's time. GB/s counts 2 arrays of x's size for a forward
pass and 5 for both passes.

On Linux the C library is told to keep freed memory, for all candidates alike: otherwise large
arrays are unmapped and mapped anew each time, and page faults swamp what is measured.

Examples
  python benchmarks/rational.py --quick
  python benchmarks/rational.py --csv rational.csv
  python benchmarks/rational.py --shapes 16x197x768 --dtypes float32 bfloat16
  python benchmarks/rational.py --device cuda --csv rational_gpu.csv
"""


class Row(NamedTuple):
    """The medians of one shape, dtype and pass, in milliseconds; NaN for what was left out."""

    shape: tuple[int, ...]
    dtype: str
    passes: str
    milliseconds: dict[str, float]

    def gigabytes_per_second(self, name: str) -> float:
        size = torch.empty(0, dtype=DTYPES[self.dtype]).element_size()
        count = ARRAYS[self.passes] * torch.Size(self.shape).numel()
        return count * size / self.milliseconds[name] / 1e6

    def ratio(self, name: str) -> float:
        return self.milliseconds["kat"] / self.milliseconds[name]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU here", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(header(options.device), "; medians in ms, ratios of kat's to the other's", sep="")
    cases = itertools.product(options.shapes, options.dtypes, PASSES)
    rows = [cells(measure(*case, options)) for case in cases]
    print_table(CSV_COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, CSV_COLUMNS, rows)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--shapes",
        nargs="+",
        metavar="SHAPE",
        help="tiny, small, base (KAT-T/S/B: batches 16 and 128, the embedding's width and 4 times"
        " it), or sizes such as 16x197x768, channels last; default: all three models",
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, metavar="DTYPE", help=str([*DTYPES]))
    parser.add_argument("--compile", action="store_true", help="all but the copy and the reference")
    parser.add_argument("--seconds", type=float, help="time for a line of the table; default 1")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="also write the table there")
    parser.add_argument(
        "--quick", action="store_true", help="batch 16, float32 and bfloat16, 0.3 s a line"
    )
    parser.add_argument(
        "--gigabytes",
        type=float,
        default=4.0,
        help="leave out the reference where it would take more memory than this; default 4",
    )
    options = parser.parse_args(arguments)
    quick = options.quick
    if options.seconds is None:
        options.seconds = 0.3 if quick else 1.0
    options.dtypes = options.dtypes or (["float32", "bfloat16"] if quick else [*DTYPES])
    names = options.shapes or [*WIDTHS]
    try:
        shapes = [
            shape for name in names for shape in shapes_of(name, (16,) if quick else (16, 128))
        ]
    except ValueError:
        parser.error(f"--shapes takes {', '.join(WIDTHS)} or sizes such as 16x197x768, got {names}")
    options.shapes = list(dict.fromkeys(shapes))
    return options


def shapes_of(name: str, batches: tuple[int, ...]) -> list[tuple[int, ...]]:
    if name in WIDTHS:
        widths = (WIDTHS[name], 4 * WIDTHS[name])
        return [(batch, TOKENS, width) for batch in batches for width in widths]
    return [tuple(int(size) for size in name.split("x"))]


# ---- measuring


def measure(shape: tuple[int, ...], dtype: str, passes: str, options: argparse.Namespace) -> Row:
    """Lets the candidates take turns until the time is up; then the reference, on its own."""
    steps = candidates(shape, dtype, passes, options)
    alone = {name: steps.pop(name) for name in ("reference",) if name in steps}
    times = take_turns(steps, options.seconds, options.device)
    times |= take_turns(alone, 0.0, options.device)
    found = medians(times)
    return Row(shape, dtype, passes, {n: found.get(n, float("nan")) for n in CANDIDATES})


def candidates(
    shape: tuple[int, ...], dtype: str, passes: str, options: argparse.Namespace
) -> dict[str, Callable[[], None]]:
    torch.manual_seed(0)
    torch.compiler.reset()  # its limit of recompilations would leave later cells uncompiled
    x = torch.randn(shape, device=options.device).to(DTYPES[dtype])
    grad = torch.randn(shape, device=options.device).to(DTYPES[dtype])
    a = 0.3 * torch.randn(1, 6, device=options.device)
    b = 0.3 * torch.randn(8, 4, device=options.device)
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "kat": lambda x: kat.rational(x, a, b),
        "gelu": F.gelu,
        "silu": F.silu,
    }
    if options.compile:
        functions["plain"] = lambda x: reference.forward(Rational(a, b), x)
        functions = {name: torch.compile(f, dynamic=False) for name, f in functions.items()}
    if REFERENCE_ARRAYS * x.numel() * max(4, x.element_size()) < options.gigabytes * 1e9:
        functions["reference"] = lambda x: kat.rational(x, a, b, impl="reference")
    if passes == "forward":
        steps = {name: forward(function, x) for name, function in functions.items()}
        return {**steps, "copy": copy_forward(x)}
    leaves = [t.requires_grad_() for t in (x, a, b)]
    steps = {name: both(function, grad, leaves) for name, function in functions.items()}
    return {**steps, "copy": copy_both(x.detach(), grad)}


def forward(function: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    @torch.no_grad()
    def step() -> None:
        function(x)

    return step


def both(
    function: Callable[[Tensor], Tensor], grad: Tensor, leaves: list[Tensor]
) -> Callable[[], None]:
    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(leaves[0]).backward(grad)

    return step


def copy_forward(x: Tensor) -> Callable[[], None]:
    def step() -> None:
        x.clone()

    return step


def copy_both(x: Tensor, grad: Tensor) -> Callable[[], None]:
    def step() -> None:
        y = x.clone()
        torch.add(x, grad)
        del y

    return step


# ---- reporting


CSV_COLUMNS = (
    *("shape", "dtype", "pass"),
    *(f"{name} ms" for name in CANDIDATES),
    *(f"/{name}" for name in CANDIDATES[1:]),
    *("kat GB/s", "copy GB/s"),
)


def cells(row: Row) -> list[str | float]:
    """A line of the table."""
    return [
        *("x".join(map(str, row.shape)), row.dtype, row.passes),
        *row.milliseconds.values(),
        *(row.ratio(name) for name in CANDIDATES[1:]),
        *(row.gigabytes_per_second(name) for name in ("kat", "copy")),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
