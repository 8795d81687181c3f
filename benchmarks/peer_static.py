"""What Triton's compiler makes of a provider's kernels, and the time that a GPU needs at least.

The provider's own launcher runs on CPU tensors with stand-ins in the place of the kernels. They
note the grid, the arguments and the options, with which the kernel is then compiled as on a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import gpu_code
import torch
import triton
from peer_code import Finding, coefficients_of, load, provider_of
from torch import Tensor
from triton.backends.compiler import GPUTarget

DEFAULT_WARPS = 4  # Triton's


class Gpu(NamedTuple):
    """A GPU's memory bandwidth and float32 peak, as its vendor states them."""

    name: str
    bytes_per_second: float
    flops_per_second: float

    def seconds(self, moved: float, flops: float) -> float:
        """The roofline: nothing that moves and computes so much is faster on this GPU."""
        return max(moved / self.bytes_per_second, flops / self.flops_per_second)


GPUS = {
    80: Gpu("A100 SXM 80 GB", 2.039e12, 19.5e12),
    90: Gpu("H100 SXM", 3.35e12, 67e12),
    100: Gpu("B200", 8.0e12, 80e12),
    120: Gpu("RTX 5090", 1.792e12, 104.8e12),
}


class Launch(NamedTuple):
    """A kernel's launch: its arguments by name, and the compiler's options."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    options: dict[str, Any]


def findings(
    name: str, folder: Path | None, operation: str, shape: list[int], dtype: torch.dtype, arch: int
) -> list[Finding]:
    """The rows of the kernel with which a provider does an operation.

    Instructions and operations for an element of x are those of the loop over elements, divided
    by the elements that a thread stores in one pass, masked ones included. Where no loop stores
    anything, they are the kernel's, times all threads, divided by the elements of x.
    """
    launch, result = launch_of(name, folder, operation, shape, dtype)
    binary = compile_launch(launch, arch)
    text = gpu_code.disassemble(binary.asm["cubin"])
    body, passes, once = visits(text, launch, result)
    elements = result.numel()
    moved = bytes_moved(launch, elements)
    instructions = len(body) * passes
    added = atomics(binary.asm["ttir"]) * launch.programs
    gpu = GPUS[arch]
    microseconds = 1e6 * gpu.seconds(moved * elements, gpu_code.flops(body) * passes * elements)
    return [
        ("registers", "per thread", gpu_code.registers(text), "compiled"),
        ("spills", "instructions", gpu_code.spills(text), "compiled"),
        ("instructions", "per element", instructions, "compiled"),
        ("instructions outside loops", "per thread", once, "compiled"),
        ("access width", "bit", gpu_code.access_widths(body), "compiled"),
        ("atomic additions", "per element", added / elements, "compiled"),
        ("bytes moved", "per element", moved, "compiled"),
        (f"least time, {gpu.name}", "us", microseconds, "prediction"),
    ]


def launch_of(
    name: str, folder: Path | None, operation: str, shape: list[int], dtype: torch.dtype
) -> tuple[Launch, Tensor]:
    """The launch of an operation's kernel, and y or dx."""
    code = provider_of(name).triton
    module = load(code.file, folder)
    kernels = load(code.launched_from, folder) if code.launched_from else module
    grad, x = (torch.empty(shape, dtype=dtype) for _ in range(2))
    a, b = coefficients_of(name)
    with recorded(kernels) as launches:
        if operation == "forward":
            result = code.forward(module, x, a, b)
        else:
            result = code.backward(module, grad, x, a, b)[0]
    return launches[code.kernels[operation]], result


@contextmanager
def recorded(module: ModuleType) -> Iterator[dict[str, Launch]]:
    """Nothing is launched meanwhile; the module's launches are noted by the kernel's name."""
    kernels = {
        name: value for name, value in vars(module).items() if isinstance(value, triton.JITFunction)
    }
    launches: dict[str, Launch] = {}
    try:
        for name, kernel in kernels.items():
            setattr(module, name, _Recorder(name, kernel, launches))
        yield launches
    finally:
        for name, kernel in kernels.items():
            setattr(module, name, kernel)


class _Recorder:
    def __init__(self, name: str, kernel: Any, launches: dict[str, Launch]) -> None:
        self.name, self.kernel, self.launches = name, kernel, launches

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return partial(self._record, grid)

    def _record(self, grid: Any, *args: Any, **kwargs: Any) -> None:
        names = self.kernel.arg_names
        arguments = dict(zip(names, args, strict=False))
        arguments |= {name: value for name, value in kwargs.items() if name in names}
        options = {name: value for name, value in kwargs.items() if name not in names}
        programs = math.prod(grid(arguments) if callable(grid) else grid)
        self.launches[self.name] = Launch(self.kernel, programs, arguments, options)


def compile_launch(launch: Launch, arch: int) -> Any:
    """The kernel, compiled with the types and constants that Triton derives from a launch."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible = set()
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        specialized = not parameter.do_not_specialize
        if isinstance(value, Tensor):
            types[name] = gpu_code.POINTERS[value.dtype]
            divisible.add(name)  # torch aligns what it allocates
        elif parameter.is_constexpr or (specialized and value == 1):
            constants[name] = value
        else:
            types[name] = "i64" if abs(value) >= 2**31 else "i32"
            if specialized and value % 16 == 0:
                divisible.add(name)
    target = GPUTarget("cuda", arch, 32)
    return gpu_code.compiled(launch.kernel, types, constants, divisible, target, launch.options)


def visits(text: str, launch: Launch, result: Tensor) -> tuple[list[str], float, int]:
    """The instructions that visit elements of x.

    Returns:
        the instructions, how often a thread runs them for each element, and how many others there
        are outside of all loops.
    """
    code = gpu_code.instructions(text)
    loops = gpu_code.loops(code)
    storing = [body for body in loops if gpu_code.stored_bits(body)]
    if storing:
        body = max(storing, key=lambda body: max(gpu_code.stored_bits(body)))
        passes = 8 * result.element_size() / sum(gpu_code.stored_bits(body))
        return body, passes, len(code) - sum(map(len, loops))
    threads = 32 * launch.options.get("num_warps", DEFAULT_WARPS) * launch.programs
    return [line for _, line in code], threads / result.numel(), 0


def bytes_moved(launch: Launch, elements: int) -> int:
    """Of the arrays as large as x, each of which is read or written once."""
    arrays = [
        value
        for value in launch.arguments.values()
        if isinstance(value, Tensor) and value.numel() == elements
    ]
    return sum({array.data_ptr(): array.element_size() for array in arrays}.values())


def atomics(ttir: str) -> int:
    """Atomic additions of a program: Triton's intermediate code has the shape of each."""
    count = 0
    for line in ttir.splitlines():
        if "tt.atomic_rmw" in line:
            shape = re.search(r"-> tensor<([0-9x]+)x\w+>", line)
            count += math.prod(map(int, shape[1].split("x"))) if shape else 1
    return count
