"""Compiles Triton kernels for GPUs that are not present, and reads the machine code.

Triton brings the assembler and the disassembler used here. It must have been imported without
TRITON_INTERPRET, with which there is nothing to compile.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from typing import Any

import torch
import triton
from triton.compiler import ASTSource

POINTERS = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
}
"""Triton's names of pointers."""


def compiled(
    function: Any,
    types: dict[str, str],
    constants: dict[str, Any],
    divisible: set[str],
    target: Any,
    options: dict[str, Any],
) -> Any:
    """The compiled kernel.

    Args:
        function: of ``triton.jit``.
        types: Triton's type of each argument; those of ``constants`` are left out.
        constants: values that are compiled in.
        divisible: arguments that are multiples of 16, as most pointers are.
        target: a ``triton.backends.compiler.GPUTarget``.
        options: the compiler's, such as ``num_warps``.
    """
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in divisible
    }
    source = ASTSource(function, signature, constants, attributes)
    return triton.compile(source, target=target, options=options)


def disassemble(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def registers(text: str) -> int:
    return int(re.findall(r"\bREG:(\d+)", text)[0])


def spills(text: str) -> int:
    return len(re.findall(r"\b(?:LDL|STL)\b", text))


def instructions(text: str) -> list[tuple[int, str]]:
    """Address and text of each instruction, without the idle ones that fill up the end."""
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);", text, re.MULTILINE)
    code = [(int(address, 16), line.strip()) for address, line in found]
    while code and (code[-1][1] == "NOP" or _jumps_to(code[-1][1]) == code[-1][0]):
        code.pop()
    return code


def loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """The instructions that each backward branch jumps over."""
    index = {address: i for i, (address, _) in enumerate(code)}
    lines = [line for _, line in code]
    starts = [index.get(_jumps_to(line), len(code)) for line in lines]
    return [lines[start : i + 1] for i, start in enumerate(starts) if start < i]


def _jumps_to(line: str) -> int:
    """The address to which a branch jumps; -1 of another instruction."""
    target = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", line)
    return int(target[1], 16) if target else -1


def accesses(body: list[str]) -> list[tuple[str, int]]:
    """LDG or STG, and the bits, of each load from and store to global memory."""
    return [
        (name, bits(suffix)) for name, suffix in re.findall(r"\b(LDG|STG)(\S*)", "\n".join(body))
    ]


def access_widths(body: list[str]) -> str:
    """The bits of the global loads and stores, as ``32/128``."""
    return "/".join(str(width) for width in sorted({width for _, width in accesses(body)}))


def stored_bits(body: list[str]) -> list[int]:
    return [width for name, width in accesses(body) if name == "STG"]


def bits(suffix: str) -> int:
    """The width in the suffix of a load or store, such as ``.E.128``; 32 is not written."""
    width = re.search(r"\.[US]?(8|16|64|128)\b", suffix)
    return int(width[1]) if width else 32


def flops(body: list[str]) -> int:
    """Operations in float32: two of a fused multiply-add, one of an addition, a multiplication
    or an approximate function; twice as many of Blackwell's instructions for pairs."""
    found = re.findall(r"\b(FFMA|FADD|FMUL|MUFU)(2?)\b", "\n".join(body))
    return sum((2 if name == "FFMA" else 1) * (2 if pair else 1) for name, pair in found)
