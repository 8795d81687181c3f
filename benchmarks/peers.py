"""Compares published kernels of the rational function with kat's: one table, one CSV file."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import peer_interpreted as interpreted
import peer_static as static
import torch
import torch.nn.functional as F
import triton
from peer_code import (
    OURS,
    PEERS,
    Finding,
    PeerError,
    attempted,
    coefficients_of,
    cpu_function,
    parse_peer,
    provider_of,
)
from rational import both, forward
from timing import header, keep_freed_memory, medians, take_turns, write_csv

EPILOG = f"""\
Peers, each a folder with a checkout of
{chr(10).join(f"  {name:<22}{peer.repository}" for name, peer in PEERS.items())}

What a number is stands in the last column
  source       Triton's version, and of each file of a peer the first 16 digits of its SHA-256
  compiled     read from the code that Triton compiles for an architecture, without a GPU: the
               kernel that visits every element, called by the provider's own launcher. Bytes moved
               are those of the arrays as large as x
  prediction   not measured: the roofline, max(bytes / bandwidth, operations / peak), with the
               vendor's figures for one GPU of the architecture. Atomic additions, which make a
               kernel slower, are not in it
  interpreted  measured with Triton's interpreter, on the CPU, which adds the elements of a program
               in another order than a GPU: the relative error of the gradients against float64
               (2-norms), and how many different bit patterns of the coefficients' gradients there
               are when the programs run in random orders
  eager        the same error of code in plain PyTorch, run on the CPU
  timed        median on the CPU; the candidates take turns in one process, and the machine must
               have nothing else to do
  failed       the first line of the error with which the provider's code ended

x and the output gradients are standard normal. Each of 8 groups of channels has its own
coefficients in float32; rational_activations has one group.

Examples
  python benchmarks/peers.py --peer flashkat=../FlashKAT --skip cpu-time
  python benchmarks/peers.py --peer rational_kat_cu=../rational_kat_cu \\
      --peer flashkat=../FlashKAT --peer rational_activations=../rational_activations \\
      --csv peers.csv
"""
COLUMNS = ("provider", "operation", "setting", "metric", "unit", "value", "basis")
OPERATIONS = ("forward", "backward")
GELU = "F.gelu"

Providers = dict[str, Path | None]
"""Folders by name; kat itself has none."""


class Row(NamedTuple):
    """A line of the table."""

    provider: str
    operation: str
    setting: str
    metric: str
    unit: str
    value: float | str
    basis: str


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    providers: Providers = {OURS: None, **dict(options.peer)}
    print(header("cpu"))
    print(line_of(Row(*COLUMNS)))
    rows = []
    for row in table(providers, options):
        print(line_of(row), flush=True)
        rows.append(row)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--peer", action="append", default=[], metavar="NAME=PATH", help="may be repeated")
    add("--skip", nargs="+", default=[], choices=SECTIONS, metavar="PART", help=", ".join(SECTIONS))
    add("--shape", type=sizes, default=[16, 197, 768], help="compiled, timed (16x197x768)")
    add("--arch", type=int, nargs="+", default=[*static.GPUS], choices=static.GPUS)
    add("--image", type=sizes, default=[1, 256], help="tokens x channels, interpreted (1x256)")
    add(
        "--batches",
        type=int,
        nargs="+",
        default=[2**i for i in range(13)],
        metavar="N",
        help="for the gradient error (powers of two up to 4096)",
    )
    add("--order-batch", type=int, default=256, metavar="N", help="for the orders (256)")
    add("--orders", type=int, default=10, metavar="N", help="orders of the programs (10)")
    add("--seconds", type=float, default=20.0, help="for each timed operation (20)")
    add("--csv", type=Path, metavar="PATH", help="also write the table there")
    options = parser.parse_args(arguments)
    if "TRITON_INTERPRET" in os.environ:
        parser.error("TRITON_INTERPRET is set, with which Triton compiles nothing; unset it")
    if len(options.shape) != 3 or len(options.image) != 2:
        parser.error("--shape takes batch x tokens x channels, --image tokens x channels")
    if options.shape[-1] % 8 or options.image[-1] % 8:
        parser.error("channels must be a multiple of 8, the number of groups")
    try:
        options.peer = [parse_peer(text) for text in options.peer]
    except PeerError as error:
        parser.error(f"--peer {error}")
    return options


def sizes(text: str) -> list[int]:
    return [int(size) for size in text.split("x")]


def table(providers: Providers, options: argparse.Namespace) -> Iterator[Row]:
    yield from sources(providers)
    for name, section in SECTIONS.items():
        if name not in options.skip:
            yield from section(providers, options)


def sources(providers: Providers) -> Iterator[Row]:
    yield Row("-", "-", "Triton", "version", "-", triton.__version__, "source")
    for name, folder in providers.items():
        for code in (provider_of(name).triton, provider_of(name).torch):
            if folder and code:
                digest = hashlib.sha256((folder / code.file).read_bytes()).hexdigest()[:16]
                yield Row(name, "-", code.file, "SHA-256", "-", digest, "source")


# ---- the parts


def compiled(providers: Providers, options: argparse.Namespace) -> Iterator[Row]:
    names = [name for name in providers if provider_of(name).triton]
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for arch, dtype, name, operation in product(options.arch, dtypes, names, OPERATIONS):
        found = attempted(
            static.findings,
            *(name, providers[name], operation, options.shape, dtypes[dtype], arch),
        )
        setting = f"sm_{arch} {dtype} {text_of(options.shape)}"
        yield from rows_of(name, operation, setting, found)


def gradient_error(providers: Providers, options: argparse.Namespace) -> Iterator[Row]:
    with interpreted.interpreter() as run:
        for batch, name in product(options.batches, providers):
            shape = [batch, *options.image]
            found = run(interpreted.gradient_errors, name, providers[name], shape)
            yield from rows_of(name, "backward", f"float32 {text_of(shape)}", found)


def program_order(providers: Providers, options: argparse.Namespace) -> Iterator[Row]:
    shape = [options.order_batch, *options.image]
    setting = f"float32 {text_of(shape)}, {options.orders} orders"
    with interpreted.interpreter() as run:
        for name in [name for name in providers if provider_of(name).triton]:
            found = run(interpreted.distinct_results, name, providers[name], shape, options.orders)
            yield from rows_of(name, "backward", setting, found)


def cpu_time(providers: Providers, options: argparse.Namespace) -> Iterator[Row]:
    keep_freed_memory()
    setting = f"float32 {text_of(options.shape)}, {torch.get_num_threads()} threads"
    names = [GELU, *(name for name in providers if provider_of(name).torch)]
    for operation in ("forward", "forward+backward"):
        steps = {}
        for name in names:
            step = cpu_step(name, providers.get(name), operation, options.shape)
            failure = attempted(step)
            if failure:
                yield from rows_of(name, operation, setting, failure)
            else:
                steps[name] = step
        times = medians(take_turns(steps, options.seconds, "cpu"))
        for name, milliseconds in times.items():
            yield Row(name, operation, setting, "time", "ms", milliseconds, "timed")


def cpu_step(
    name: str, folder: Path | None, operation: str, shape: list[int]
) -> Callable[[], None]:
    """A call of the provider's code, which loads it when it first runs."""
    generator = torch.Generator().manual_seed(0)
    grad, x = (torch.randn(shape, generator=generator) for _ in range(2))
    coefficients = () if name == GELU else coefficients_of(name)

    def function(x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x) if name == GELU else cpu_function(name, folder)(x, *coefficients)

    if operation == "forward":
        return forward(function, x)
    return both(function, grad, [t.requires_grad_() for t in (x, *coefficients)])


SECTIONS = {
    "compiled": compiled,
    "gradient-error": gradient_error,
    "program-order": program_order,
    "cpu-time": cpu_time,
}


# ---- printing


def rows_of(provider: str, operation: str, setting: str, found: Iterable[Finding]) -> Iterator[Row]:
    return (Row(provider, operation, setting, *finding) for finding in found)


def text_of(shape: list[int]) -> str:
    return "x".join(map(str, shape))


def line_of(row: Row) -> str:
    value = row.value if isinstance(row.value, str) else f"{row.value:.4g}"
    return (
        f"{row.provider:<20} {row.operation:<16} {row.setting:<33} {row.metric:<27}"
        f" {value:>11} {row.unit:<16} {row.basis}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
