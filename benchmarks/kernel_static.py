"""Compiles the GPU kernels without a GPU and prints what the compiler made of them.

For each architecture, dtype, width and kernel:

  regs       registers a thread. With 256 threads a program, 32 lets 8 programs share a
             multiprocessor and 64 lets 4: enough loads in flight to keep the memory busy.
  spills     instructions that move registers to memory and back for want of registers: want 0.
  shared     bytes of shared memory a program.
  access     bits of each global load and store in the loop: 128 is the widest there is.
  instr/elt  instructions in the loop for each element of x, everything included. With too many
             a GPU waits for its arithmetic instead of its memory. Idle lanes count.

Targets on sm_90 (H100), form A, degree 5/4: forward about 32 registers and 14.5 instructions;
backward at most 64 registers, no spills and 45 instructions; all accesses of 128 bits. Counted is
the loop for ordinary x, which looks out for enormous ones and for tiny gradients on the way;
registers and spills are those of the whole kernel.

Needs only torch and triton, which brings the assembler and the disassembler used here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)  # with it there is nothing to compile
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_code
import torch
import triton
from timing import write_csv
from triton.backends.compiler import GPUTarget

from kat.ops.triton import kernels as triton_kernels
from kat.ops.triton import launch as triton_launch

COLUMNS = ("arch", "dtype", "width", "kernel", "regs", "spills", "shared", "access", "instr/elt")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KERNELS = {
    "forward": triton_kernels.forward_kernel,
    "backward": triton_kernels.backward_kernel,
    "backward_x": triton_kernels.backward_kernel,
    "float64": triton_kernels.float64_backward_kernel,
    "gated_forward": triton_kernels.forward_kernel,
    "gated_backward": triton_kernels.backward_kernel,
    "gated_backward_x": triton_kernels.backward_kernel,
    "gated_float64": triton_kernels.float64_backward_kernel,
}
MULTIPROCESSORS = 132
OTHERS = {"partial_a_ptr": "*fp64", "partial_b_ptr": "*fp64", "again_ptr": "*i32"}
STORED_LIKE_X = ("grad_ptr", "x_ptr", "v_ptr", "dx_ptr", "dv_ptr", "y_ptr")


def main() -> None:
    args = parse()
    print(
        f"torch {torch.__version__}, triton {triton.__version__}; form {args.form}, degree"
        f" {args.degree[0]}/{args.degree[1]}, {args.groups} groups, {args.rows} rows"
    )
    print("".join(f"{column:>17}" for column in COLUMNS))
    rows = []
    for row in table(args):
        print("".join(f"{value!s:>17}" for value in row.values()), flush=True)
        rows.append(row)
    if args.csv:
        write_csv(args.csv, "cpu", COLUMNS, [list(row.values()) for row in rows])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python benchmarks/kernel_static.py --arch 90 --dtype bf16 --csv out.csv",
    )
    add = parser.add_argument
    add("--arch", type=int, nargs="+", default=[80, 90, 100], help="80: A100, 90: H100, 100: B200")
    add("--dtype", nargs="+", default=["fp32", "bf16"], choices=DTYPES, help="of x, y, gradients")
    add("--width", type=int, nargs="+", default=[768, 3072], help="channels (768 3072)")
    add(
        "--kernel",
        nargs="+",
        default=["forward", "backward"],
        choices=KERNELS,
        help="backward_x makes no gradients of coefficients; float64 goes on from backward where x"
        " is enormous or a gradient tiny, and returns at once elsewhere; gated_*: of F(x) v",
    )
    add("--rows", type=int, default=16 * 197, help="positions: batch x tokens (3152)")
    add("--groups", type=int, default=8, help="groups of channels (8)")
    add("--degree", type=int, nargs=2, default=[5, 4], metavar=("M", "N"), help="of P and Q (5 4)")
    add("--form", default="A", choices=["A", "B"])
    add("--apart", action="store_true", help="gated kernels: halves of one tensor, rows apart")
    add("--csv", type=Path, metavar="FILE", help="write the table there, too")
    return parser.parse_args()


def table(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for arch in args.arch:
        for dtype in args.dtype:
            for width in args.width:
                for kernel in args.kernel:
                    found = measure(kernel, arch, DTYPES[dtype], width, args)
                    values = (f"sm_{arch}", dtype, width, kernel, *found)
                    yield dict(zip(COLUMNS, values, strict=True))


def measure(
    kernel: str, arch: int, dtype: torch.dtype, width: int, args: argparse.Namespace
) -> tuple[Any, ...]:
    """The columns from ``regs`` on."""
    x = torch.empty(0, dtype=dtype)
    forward = kernel.endswith("forward")
    programs = triton_launch.PROGRAMS
    share = shared(args.rows, width, args.groups, x.element_size(), programs)
    constants = constants_of(kernel, share, args.degree, args.groups, args.form)
    constants["APART"] = args.apart and kernel.startswith("gated")
    binary = compiled(KERNELS[kernel], constants, dtype, GPUTarget("cuda", arch, 32))
    text = gpu_code.disassemble(binary.asm["cubin"])
    body = loop(text)
    stored = sum(gpu_code.stored_bits(body)) / 8
    arrays = 1 if forward else kernel.startswith("gated") + 1
    lanes = -(-share.count // triton_launch.LANES) * triton_launch.LANES  # idle ones included
    per_element = len(body) * x.element_size() * arrays / stored * lanes / share.count
    counts = (gpu_code.registers(text), gpu_code.spills(text), binary.metadata.shared)
    return *counts, gpu_code.access_widths(body), round(per_element, 1)


def shared(rows: int, width: int, groups: int, itemsize: int, programs: int) -> Any:
    """How memory is divided among programs."""
    target = programs * MULTIPROCESSORS
    return triton_launch.Sharing.of(rows * width, groups, width // groups, itemsize, target)


def constants_of(
    kernel: str, share: triton_launch.Sharing, degree: Sequence[int], groups: int, form: str
) -> dict[str, Any]:
    """The constants of a kernel by its name in KERNELS."""
    a, b = torch.empty(1, degree[0] + 1), torch.empty(groups, degree[1])
    gated, sums = kernel.startswith("gated"), not kernel.endswith("_x")
    found = triton_launch.constants(a, b, share, form=form, gated=gated, sums=sums)
    return {name: found[name] for name in KERNELS[kernel].arg_names if name in found}


def compiled(
    function: Any, constants: dict[str, Any], dtype: torch.dtype, target: GPUTarget
) -> Any:
    """What a launch with 16-byte aligned pointers would compile."""
    names = function.arg_names
    types = {name: type_of(name, gpu_code.POINTERS[dtype]) for name in names}
    pointers = {name for name in names if name.endswith("_ptr")}
    return gpu_code.compiled(function, types, constants, pointers, target, triton_launch.OPTIONS)


def type_of(name: str, stored: str) -> str:
    if name in STORED_LIKE_X:
        return stored
    if name in OTHERS:
        return OTHERS[name]
    return "*fp32" if name.endswith("_ptr") else "i32"


def loop(text: str) -> list[str]:
    """The instructions of the loop for ordinary x.

    Of the loops it is the one with the widest stores, the other going element by element.
    """
    return max(
        gpu_code.loops(gpu_code.instructions(text)),
        key=lambda body: max(gpu_code.stored_bits(body), default=0),
    )


if __name__ == "__main__":
    main()
