"""Division of memory among the programs of a Triton kernel, reading and writing.

Memory is a sequence of vectors of 16 bytes (fewer where a group's channels do not divide into
them), in blocks of ``LANES`` vectors. A group's channels are contiguous: a *run* of vectors. The
runs cycle through the groups:

    group of vector v = (v // run) mod groups

There are two ways to divide the vectors. In both, each lane has one group for the whole program, so
it loads its coefficients once and keeps its gradient sums in registers:

- flat: a program takes blocks ``pid``, ``pid + programs``, ..., where the number of programs is a
  multiple of the period after which blocks repeat their channels. No division, no idle lane.
- by group: a program takes the runs of one group, at the cost of a division a vector. For periods
  too long for the first way, such as images in channels-first memory.
"""

# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton concatenates tuples but does not unpack them)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""True if TRITON_INTERPRET=1 was set on import; the kernels then run on CPU tensors, slowly."""

NVIDIA = tl.constexpr(torch.version.hip is None and not INTERPRETED)
"""True if PTX may be used where Triton emits several instructions for one."""


@triton.jit
def coefficients_of(ptr, group, COUNT: tl.constexpr, SHARED: tl.constexpr, dtype: tl.constexpr):
    """Return the row of each lane's group, or the shared row, as COUNT values."""
    row = 0 if SHARED else group * COUNT
    result = ()
    for i in tl.static_range(COUNT):
        result = result + (tl.load(ptr + row + i).to(dtype),)
    return result


@triton.jit
def load_vectors(ptrs, mask, LANES: tl.constexpr, V: tl.constexpr, dtype: tl.constexpr):
    """Return a block of LANES vectors of V elements as V values of shape (LANES,), 0 where masked.

    Loaded with shape (LANES, V), it is one access of V elements a lane. Split, it stays in
    registers, and sums over V cost additions only.
    """
    parts = (_widen(tl.load(ptrs, mask=mask, other=0.0), V, dtype),)
    for level in tl.static_range(4):
        if V >> level > 1:
            halves = ()
            for k in tl.static_range(1 << level):
                halves = halves + tl.split(tl.reshape(parts[k], (LANES, (V >> level) // 2, 2)))
            parts = halves
    values = ()
    for k in tl.static_range(V):
        values = values + (tl.reshape(parts[k], (LANES,)),)
    return values


@triton.jit
def store_vectors(ptrs, values, mask, LANES: tl.constexpr, V: tl.constexpr):
    """Store V values as load_vectors returns them."""
    parts = ()
    for k in tl.static_range(V):
        parts = parts + (tl.reshape(values[k].to(ptrs.dtype.element_ty), (LANES, 1)),)
    for level in tl.static_range(4):
        if V >> level > 1:
            wholes = ()
            for k in tl.static_range(V >> level >> 1):
                pair = tl.join(parts[2 * k], parts[2 * k + 1])
                wholes = wholes + (tl.reshape(pair, (LANES, 2 << level)),)
            parts = wholes
    tl.store(ptrs, parts[0], mask=mask)


@triton.jit
def _widen(block, V: tl.constexpr, dtype: tl.constexpr):
    """Return the block in the arithmetic's dtype; bfloat16 in pairs, one instruction a value."""
    if NVIDIA and block.dtype == tl.bfloat16 and V > 1:
        result = tl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;",
            "=&f,=f,r", [block], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        result = block.to(dtype)
    return result


@triton.jit
def narrowed(value, dtype: tl.constexpr):
    """Return a float64 value in any dtype, through float32: not every Triton supports all pairs."""
    if dtype != tl.float64:
        value = value.to(tl.float32)
    return value.to(dtype)


@triton.jit
def share_of(FLAT: tl.constexpr, LANES: tl.constexpr, groups, run, WIDE: tl.constexpr):
    """Return the first position of a program, the step to its next, and the group of each lane."""
    pid = tl.program_id(0)
    programs = tl.num_programs(0)
    if WIDE:
        pid = pid.to(tl.int64)
        programs = programs.to(tl.int64)
    if FLAT:
        start = pid * LANES
        step = programs * LANES
        group = ((start + tl.arange(0, LANES)) // run) % groups
    else:
        start = pid // groups * LANES
        step = programs // groups * LANES
        group = pid % groups
    return start, step, group


@triton.jit
def vectors_at(position, group, groups, run, FLAT: tl.constexpr):
    """Return the indices, in memory, of the vectors at these positions."""
    return position if FLAT else (position // run * groups + group) * run + position % run


@triton.jit
def offsets_of(position, group, groups, run, FLAT: tl.constexpr, V: tl.constexpr):
    """Return the element offsets (LANES, V) of the vectors at these positions."""
    return (vectors_at(position, group, groups, run, FLAT) * V)[:, None] + tl.arange(0, V)[None, :]


@triton.jit
def inside(first, position, count, LANES: tl.constexpr, V: tl.constexpr, WIDE: tl.constexpr):
    """Return the mask (LANES, 1) of the positions before ``count``, in few registers.

    position V is an offset, which the loop has; if WIDE, count V may exceed int32.
    """
    mask = tl.arange(0, LANES) < count - first if WIDE else position * V < count * V
    return mask[:, None]


@triton.jit
def lane_zeros(COUNT: tl.constexpr, LANES: tl.constexpr, dtype: tl.constexpr):
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (tl.zeros([LANES], dtype),)
    return result
