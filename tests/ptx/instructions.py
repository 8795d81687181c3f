"""Arithmetic of PTX instructions on NumPy arrays, one element a thread."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.ptx import arithmetic
from tests.ptx.arithmetic import Array, flushed, fma, noisy


class Fault(Exception):
    """A mistake of the kernel, for which a GPU would give an error or an undefined result."""


@dataclass(frozen=True)
class Operation:
    """The arithmetic of an instruction.

    Attributes:
        result: type of the destination; "" if there is none.
        sources: type of each source.
        compute: the sources to the result; None if the machine executes the instruction itself.
    """

    result: str
    sources: tuple[str, ...]
    compute: Callable[..., Array] | None = None


def width(kind: str) -> int:
    """Bytes of a value of this type."""
    bits = int(re.findall(r"\d+", kind)[0]) if kind != "pred" else 8
    return bits // 8 * (2 if kind.endswith("x2") else 1)


def dtype(kind: str) -> np.dtype:
    """The NumPy type that values of this type are computed in, or a half of a pair."""
    if kind == "pred":
        return np.dtype(bool)
    if kind in ("bf16", "bf16x2"):
        return np.dtype(np.float32)
    letter = {"b": "u", "u": "u", "s": "i", "f": "f"}[kind[0]]
    return np.dtype(f"{letter}{width(kind.removesuffix('x2'))}")


def from_bits(bits: Array, kind: str) -> Array:
    """The values whose bits these are; of pairs, with a last axis: low half first."""
    if kind.endswith("x2"):
        halves = np.stack([bits & np.uint32(0xFFFF), bits >> np.uint32(16)], -1).astype(np.uint16)
        return from_bits(halves, kind[:-2])
    return arithmetic.bfloat16_to_float32(bits) if kind == "bf16" else bits.view(dtype(kind))


def to_bits(values: Array, kind: str) -> Array:
    """Unsigned integers, or booleans; the inverse of :func:`from_bits`."""
    if kind == "pred":
        return values
    if kind.endswith("x2"):
        halves = to_bits(values, kind[:-2]).astype(np.uint32)
        return halves[..., 0] | halves[..., 1] << np.uint32(16)
    if kind == "bf16":
        return arithmetic.float32_to_bfloat16(values)
    return np.asarray(values, dtype(kind)).view(f"u{width(kind)}")


@functools.cache
def decode(opcode: str) -> Operation:
    """The arithmetic of an opcode with its modifiers.

    Raises:
        NotImplementedError: it is not known.
    """
    name, *parts = opcode.split(".")
    for pattern, make in _FAMILIES:
        if re.fullmatch(pattern, opcode):
            return make(name, parts)
    raise NotImplementedError(f"PTX instruction {opcode}")


def _divided(x: Array, y: Array) -> Array:
    """Integer quotient, toward zero."""
    if np.any(y == 0):
        raise Fault("division by zero")
    quotient = x // y
    return quotient + ((x - quotient * y != 0) & ((x < 0) != (y < 0)))


def _remainder(x: Array, y: Array) -> Array:
    return x - _divided(x, y) * y


def _shift(x: Array, by: Array, *, left: bool) -> Array:
    """As far as the type is wide, or farther, nothing but zeros or signs remain."""
    bits = 8 * x.dtype.itemsize
    near = np.minimum(by, bits - 1).astype(x.dtype)
    shifted = np.left_shift(x, near) if left else np.right_shift(x, near)
    if left or x.dtype.kind == "u":
        shifted = np.where(by >= bits, np.zeros_like(shifted), shifted)
    return shifted


_UNARY: dict[str, Callable[..., Array]] = {
    "abs": np.abs, "neg": np.negative, "not": np.invert, "mov": np.asarray, "cvta": np.asarray,
    "rcp": lambda x: x.dtype.type(1) / x,
    "ex2": lambda x: np.exp2(x.astype(np.float64)).astype(x.dtype),
    "lg2": lambda x: np.log2(x.astype(np.float64)).astype(x.dtype),
}  # fmt: skip
_BINARY: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "min": np.fmin, "max": np.fmax, "rem": _remainder,
    "div": lambda x, y: x / y if x.dtype.kind == "f" else _divided(x, y),
    "shl": functools.partial(_shift, left=True), "shr": functools.partial(_shift, left=False),
}  # fmt: skip
_COMPARE: dict[str, Callable[..., Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater,
    "hs": np.greater_equal, "num": lambda x, y: x == x, "nan": lambda x, y: x != x,
}  # fmt: skip


def _elementwise(name: str, parts: list[str]) -> Operation:
    """Arithmetic of values of one type, but for how far to shift."""
    kind = parts[-1]
    sources: tuple[str, ...] = (kind,)
    if name in _UNARY:
        compute = _UNARY[name]
    elif name == "fma":
        compute, sources = fma, (kind,) * 3
    else:
        compute, sources = _BINARY[name], (kind, "u32" if name in ("shl", "shr") else kind)
    if "NaN" in parts:
        compute = np.minimum if name == "min" else np.maximum
    ftz, approximate = "ftz" in parts, bool({"approx", "full"} & set(parts))

    def modified(*values: Array) -> Array:
        result = compute(*(flushed(value) for value in values) if ftz else values)
        if approximate:
            result = noisy(result, dropped=32 if kind == "f64" else 0)
        return flushed(result) if ftz else result

    return Operation(kind, sources, modified if ftz or approximate else compute)


def _products(name: str, parts: list[str]) -> Operation:
    """``mul`` and ``mad`` of integers: low half, high half or both."""
    part, kind = parts
    wide = f"{kind[0]}{16 * width(kind)}"

    def compute(x: Array, y: Array, *addend: Array) -> Array:
        product = np.multiply(x, y, dtype=dtype(kind if part == "lo" else wide))
        if part == "hi":
            product = (product >> dtype(wide).type(8 * width(kind))).astype(dtype(kind))
        return product + addend[0] if addend else product

    result = wide if part == "wide" else kind
    return Operation(result, (kind, kind, result)[: 3 if name == "mad" else 2], compute)


def _comparison(name: str, parts: list[str]) -> Operation:
    """``setp``: an ordered comparison with NaN is false, one that ends in ``u`` is true."""
    comparison, kind = parts[0], parts[-1]
    combine = _BINARY[parts[1]] if len(parts) == 3 else None
    unordered = comparison.endswith("u") or comparison == "nan"

    def compute(x: Array, y: Array, *other: Array) -> Array:
        nan = (x != x) | (y != y)
        result = _COMPARE[comparison.removesuffix("u")](x, y) & ~nan
        result = result | nan if unordered else result
        return combine(result, *other) if combine else result

    return Operation("pred", (kind, kind) + ("pred",) * (combine is not None), compute)


def _selection(name: str, parts: list[str]) -> Operation:
    kind = "b" + parts[0][1:]
    return Operation(kind, (kind, kind, "pred"), lambda x, y, first: np.where(first, x, y))


def _conversion(name: str, parts: list[str]) -> Operation:
    """``cvt``. Integers of a float are cut off at the least and the largest; NaN gives 0."""
    *how, to, source = parts
    if to.endswith("x2"):  # of two values, the high half first
        half = dtype(to)
        return Operation(
            to, (source,) * 2, lambda high, low: np.stack([low, high], -1).astype(half)
        )

    def compute(x: Array) -> Array:
        if x.dtype.kind == "f" and dtype(to).kind in "iu":
            whole = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[how[0]](x)
            info = np.iinfo(dtype(to))
            inside = (whole >= float(info.min)) & (whole < float(info.max) + 1)
            ends = np.where(x > 0, info.max, info.min)
            found = np.where(inside, whole, 0).astype(dtype(to))
            return np.where(np.isnan(x), 0, np.where(inside, found, ends)).astype(dtype(to))
        return x.astype(dtype(to))

    return Operation(to, (source,), compute)


def _bit_field(name: str, parts: list[str]) -> Operation:
    """``bfe.u32``: ``length`` bits from ``start`` on, fewer than 32."""

    def compute(x: Array, start: Array, length: Array) -> Array:
        ones = _shift(np.ones_like(length), length, left=True) - np.uint32(1)
        return _shift(x, start, left=False) & ones

    return Operation("u32", ("u32", "u32", "u32"), compute)


def _by_the_machine(name: str, parts: list[str]) -> Operation:
    return Operation("", ())


_FLOAT, _ROUNDED, _INTEGER = r"f(32|64)", r"(\.rn)?(\.ftz)?", r"[su](16|32|64)"
_PAIR = r"(bf16|f16)(x2)?"
_FAMILIES: tuple[tuple[str, Callable[[str, list[str]], Operation]], ...] = (
    (rf"(add|sub|mul){_ROUNDED}\.{_FLOAT}|(add|sub)\.{_INTEGER}", _elementwise),
    (rf"(min|max)((\.ftz)?(\.NaN)?\.{_FLOAT}|\.{_INTEGER})", _elementwise),
    (rf"div\.(rn|full|approx)(\.ftz)?\.{_FLOAT}|(div|rem)\.{_INTEGER}", _elementwise),
    (r"(and|or|xor)\.(pred|b16|b32|b64)", _elementwise),
    (rf"(abs|neg)(\.ftz)?\.({_FLOAT}|{_PAIR}|s16|s32|s64)|not\.(pred|b16|b32|b64)", _elementwise),
    (r"mov\.(pred|[busf](16|32|64))|cvta(\.to)?\.(global|shared)\.u64", _elementwise),
    (rf"rcp\.rn(\.ftz)?\.{_FLOAT}|rcp\.approx\.ftz\.f64", _elementwise),
    (r"(rcp|ex2|lg2)\.approx(\.ftz)?\.f32", _elementwise),
    (r"shl\.b(16|32|64)|shr\.[bsu](16|32|64)", _elementwise),
    (rf"(mul|mad)\.(lo\.{_INTEGER}|(hi|wide)\.[su](16|32))", _products),
    (rf"fma\.rn(\.ftz)?\.{_FLOAT}", _elementwise),
    (rf"setp\.[a-z]+(\.(and|or|xor))?\.([busf](16|32|64)|{_PAIR})", _comparison),
    (r"selp\.[busf](16|32|64)", _selection),
    (r"cvt(\.rn|\.rzi|\.rni|\.rmi|\.rpi)?\.([us](8|16|32|64)|f16|f32|f64|bf16)"
     r"\.([us](8|16|32|64)|f16|f32|f64|bf16)|cvt\.rn\.(f16x2|bf16x2)\.f32", _conversion),
    (r"bfe\.u32", _bit_field),
    (r"ld\.param\.[busf](32|64)|(ld|st)\.(global|shared|shared::cta)(\.v[24])?\.[bsuf](8|16|32|64)|ret|bra"
     r"|bar\.sync|shfl\.sync\.(bfly|idx|up|down)\.b32|redux\.sync\.(max|min)\.[su]32",
     _by_the_machine),
)  # fmt: skip
