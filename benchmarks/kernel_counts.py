"""Counts bytes and instructions of the compiled GPU kernels in the emulator of tests/ptx.

Kernels are compiled for sm_90 and launched as on an H100. Some programs of each grid run, on the
CPU. For each element of x that they visit:

  load, store  bytes that threads load from and store to arrays as large as x
  least        bytes of the arrays that the operation has to read and write
  other        bytes of coefficients and of their sums, loaded and stored; caches serve most of them
  atomic       atomic additions of threads
  shared       bytes loaded from and stored to shared memory
  fp32 to all  PTX instructions by kind; idle lanes count. moves are mov, selp and cvt, of which
               ptxas removes many; approx has all divisions and reciprocals of floats

program bytes is the shared memory of a program. error is the relative error of y or dx against
float64, in 2-norms. Published kernels come from the user's checkouts (peers.py --help). They have
form A only, and their autograd functions convert x to float32 under autocast, which is not counted.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace, RawTextHelpFormatter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import gpu_code
import numpy as np
import torch
from peer_code import GROUPS, MULTIPROCESSORS, OURS, coefficients_of, load, parse_peer, provider_of
from timing import header, write_csv
from triton import knobs
from triton.runtime import driver

import kat
import tests.ptx.launch as emulation
from kat.ops.triton import launch
from tests.ptx import instructions
from tests.ptx.machine import WARP, Launch, Machine

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
OPERATIONS = {"forward": 2, "backward": 3, "backward of x": 3, "gated forward": 3,
              "gated backward": 5, "gated backward of x": 5}  # fmt: skip
"""The number of arrays as large as x that an operation has to read and write."""
KINDS = {
    "control": r"bra|ret|bar.*",
    "exchange": r"(shfl|redux).*",
    "memory": r"(ld|st|atom)\..*",
    "moves": r"(mov|selp|cvta?)\..*",
    "approx": r"(rcp|ex2|lg2)\..*|div\..*f(32|64)",
    "fp64": r".*\.f64",
    "fp32": r".*\.(b?f16(x2)?|f32)",
    "integer": r".*",
}
"""Patterns of opcodes; the first that fits decides."""
COLUMNS = ("provider", "operation", "kernel", "dtype", "form", "groups", "elements", "programs",
           "registers", "program bytes", "least", "load", "store", "other", "atomic", "shared",
           *KINDS, "all", "error")  # fmt: skip


class Counting(Machine):
    """A machine with grids of two dimensions, which counts atomic additions and leaves them out."""

    def __init__(self, width: int, work: Launch, blocks: Any) -> None:
        super().__init__(work, blocks)
        row, column = np.divmod(self.special["%ctaid.x"], np.uint32(width))
        self.special |= {"%ctaid.x": column, "%ctaid.y": row}

    def _step(self, instruction: Any, lanes: Any, at: int) -> bool:
        if not instruction.opcode.startswith("atom"):
            return super()._step(instruction, lanes, at)
        adds = np.ones(len(self._ids(lanes)), bool)
        if instruction.guard:
            adds &= self.read(instruction.guard, "pred", lanes) != instruction.unless
        self.launch.memory.moved["atomic", ""] += int(adds.sum())
        return False


class H100(emulation.Emulator):
    """An emulator of some programs of each grid, with the registers of each kernel."""

    width = 1

    def __init__(self, sample: int) -> None:
        super().__init__(chosen=lambda grid: programs(sample, grid))
        self.known: dict[int, int] = {}
        instructions._FAMILIES += ((r"atom\.global\..*\.add\.f32", instructions._by_the_machine),)
        emulation.Machine = lambda *work: Counting(self.width, *work)  # type: ignore
        launch.multiprocessors = lambda device: MULTIPROCESSORS
        driver.set_active(self)
        knobs.runtime.kernel_load_start_hook = self.note_files

    def load_binary(self, name: str, *rest: Any) -> tuple[Any, Any, int, int, int]:
        self.registers = gpu_code.registers(gpu_code.disassemble(rest[0]))
        loaded = super().load_binary(name, *rest)
        self.known[id(loaded[1])] = self.registers
        return loaded

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        flat = super().launcher_cls(source, metadata)

        def start(x: int, y: int, *rest: Any) -> None:
            self.width = x
            flat(x * y, 1, *rest)

        return start


def programs(sample: int, grid: int) -> list[int]:
    """Return the programs of a grid that run, evenly spaced."""
    return sorted({i * grid // sample for i in range(sample)})


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    add = parser.add_argument
    add("--peer", action="append", default=[], metavar="NAME=PATH", type=parse_peer)
    add("--shape", type=int, nargs=3, default=[16, 197, 768], help="images, tokens, channels")
    add("--sample", type=int, default=24, metavar="N", help="run N programs of each grid (24)")
    add("--csv", type=Path, metavar="PATH", help="also write the table there")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    print(header("cpu"), ",".join(COLUMNS), sep="\n")
    rows = []
    for row in table(args, H100(args.sample)):
        print(",".join(v if isinstance(v, str) else f"{v:.4g}" for v in row), flush=True)
        rows.append(row)
    if args.csv:
        write_csv(args.csv, "cpu", COLUMNS, rows)


def table(args: Namespace, emulator: H100) -> Iterator[tuple[str | float, ...]]:
    cases = [*product([(OURS, None)], DTYPES, "AB", OPERATIONS)]
    cases += product(args.peer, ["float32"], "A", ["forward", "backward"])
    for (name, folder), dtype, form, operation in cases:
        emulator.launches.clear()
        error = run(name, folder, operation, args.shape, DTYPES[dtype], form)
        elements = torch.Size(args.shape).numel()
        least = OPERATIONS[operation] * DTYPES[dtype].itemsize
        for work in emulator.launches:
            known = work.grid, emulator.known[id(work.kernel)], work.shared
            label = (name, operation, work.kernel.name, dtype, form, GROUPS, elements, *known)
            yield *label, least, *counts(work, elements, args.sample), error


def run(
    name: str, folder: Path | None, operation: str, shape: list[int], dtype: torch.dtype, form: str
) -> float:
    """Run the provider's own launcher; return the error of y or dx where it is computed."""
    torch.manual_seed(0)
    width = shape[-1]
    halves = torch.randn(*shape[:-1], 2 * width).to(dtype)
    grad = torch.randn(shape).to(dtype)
    x, v = halves.chunk(2, -1)
    a, b = coefficients_of(name)
    forward, gated = operation.endswith("forward"), operation.startswith("gated")
    x = x if gated else x.contiguous()
    y, dx, dv = (torch.empty_like(grad) for _ in range(3))
    if code := provider_of(name).triton if folder else None:
        inputs = (x, a, b) if forward else (grad, x, a, b)
        result = getattr(code, operation)(load(code.file, folder), *inputs)
        found = result if forward else result[0]
    elif forward:
        launch.forward(x, a, b, v if gated else None, form=form, y=y)
        found = y
    else:
        found = dx
        coefficients = not operation.endswith("of x")
        gate = (v, dv) if gated else (None, None)
        launch.backward(
            grad, x, a, b, gate[0], form=form, dx=found, dv=gate[1], coefficients=coefficients
        )
    at = found.flatten().isnan().logical_not().nonzero().flatten()[::97]
    group = at % width // (width // GROUPS)
    leaf = x.flatten()[at].double().requires_grad_()
    exact = kat.ops.reference.rational(leaf, a[group].double(), b[group].double(), form=form)
    if not forward:
        (exact,) = torch.autograd.grad(exact, leaf, grad.flatten()[at].double())
    exact = exact * (v.flatten()[at] if gated else 1)
    return float(((found.flatten()[at] - exact).norm() / exact.norm()).detach())


def counts(work: Launch, elements: int, sample: int) -> list[float]:
    """The columns from ``load`` to ``all``, by the elements that the programs visited."""
    arrays = {r.name: r.count // elements * r.unit for r in work.memory.regions}
    moved = work.memory.moved

    def total(way: str, large: bool) -> int:
        return sum(n for (w, name), n in moved.items() if w == way and bool(arrays[name]) == large)

    width = sum(arrays[name] for way, name in moved if way == "store")
    share = len(programs(sample, work.grid)) / work.grid
    visited = total("store", True) / width if width else elements * share
    threads = dict.fromkeys(KINDS, 0)
    shared = 0
    for opcode, warps in work.issued.items():
        kind = next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, opcode))
        threads[kind] += WARP * warps
        if access := re.match(r"(?:ld|st)\.shared(?:\.v(\d))?\.\w(\d+)", opcode):
            shared += WARP * warps * int(access[1] or 1) * int(access[2]) // 8
    bytes_moved = [total("load", True), total("store", True)]
    bytes_moved += [total("load", False) + total("store", False), moved["atomic", ""], shared]
    found = (*bytes_moved, *threads.values(), sum(threads.values()))
    return [n / visited for n in found]


if __name__ == "__main__":
    main()
