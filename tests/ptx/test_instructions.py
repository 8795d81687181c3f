"""The arithmetic of PTX instructions, against integers and fractions of Python, and mpmath."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch

from tests.ptx import arithmetic
from tests.ptx.arithmetic import Array
from tests.ptx.instructions import Fault, decode, dtype, from_bits, to_bits, width

RNG = np.random.default_rng(0)


def compute(opcode: str, *sources: Any) -> Array:
    """The result of an instruction, for values of any type."""
    operation = decode(opcode)
    kinds = zip(sources, operation.sources, strict=True)
    assert operation.compute
    with np.errstate(all="ignore"):
        result = operation.compute(*(np.asarray(s, dtype(kind)) for s, kind in kinds))
        return from_bits(to_bits(result, operation.result), operation.result)


def integers(kind: str, count: int = 400) -> list[int]:
    """Numbers of all sizes, with the least and the largest."""
    bits = 8 * width(kind)
    low = -(1 << bits - 1) if kind[0] == "s" else 0
    sizes = RNG.integers(0, 1 << 64, count, dtype=np.uint64) >> RNG.integers(
        64, size=count, dtype=np.uint64
    )
    signs = RNG.choice([-1, 1], count).tolist()
    some = [wrapped(s * n, kind) for s, n in zip(signs, sizes.tolist(), strict=True)]
    return [low, low + (1 << bits) - 1, 0, 1, *some]


def wrapped(value: int, kind: str) -> int:
    """The value of this type with the same lowest bits."""
    bits = 8 * width(kind)
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> bits - 1 else value


def toward_zero(x: int, y: int) -> int:
    return int(Fraction(x, y)) if y else 0


INTEGER: dict[str, Callable[..., int]] = {
    "add": operator.add, "sub": operator.sub, "mul.lo": operator.mul, "min": min, "max": max,
    "div": toward_zero, "rem": lambda x, y: x - y * toward_zero(x, y), "and": operator.and_,
    "or": operator.or_, "xor": operator.xor,
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_integers(name, kind):
    opcode = f"{name}.{kind if name not in ('and', 'or', 'xor') else 'b' + kind[1:]}"
    x, y = integers(kind), integers(kind)[::-1]
    if name in ("div", "rem"):
        y = [divisor or 7 for divisor in y]
    got = compute(opcode, np.array(x, dtype(kind)), np.array(y, dtype(kind)))
    want = [wrapped(INTEGER[name](p, q), kind) for p, q in zip(x, y, strict=True)]
    assert got.astype(dtype(kind)).tolist() == want


def test_division_by_zero_is_a_fault():
    with pytest.raises(Fault, match="division by zero"):
        compute("rem.s32", [4, 4], [2, 0])


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_products_of_twice_the_width(kind):
    x, y, wide = integers(kind), integers(kind)[::-1], f"{kind[0]}{16 * width(kind)}"
    products = [p * q for p, q in zip(x, y, strict=True)]
    assert compute(f"mul.wide.{kind}", x, y).tolist() == products
    high = [wrapped(product >> 8 * width(kind), kind) for product in products]
    assert compute(f"mul.hi.{kind}", x, y).tolist() == high
    added = [wrapped(product + 5, wide) for product in products]
    assert compute(f"mad.wide.{kind}", x, y, 5).tolist() == added
    assert compute(f"mad.lo.{kind}", x, y, 5).tolist() == [wrapped(n + 5, kind) for n in products]


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_shifts(kind):
    x, by = integers(kind), [i % 70 for i in range(404)]
    pairs = list(zip(x, by, strict=True))
    assert compute(f"shr.{kind}", x, by).tolist() == [p >> q for p, q in pairs]
    left = compute(f"shl.b{kind[1:]}", np.array(x, dtype(kind)).view(dtype("b" + kind[1:])), by)
    assert left.tolist() == [wrapped(p << q, "u" + kind[1:]) for p, q in pairs]


def test_bits_and_bytes():
    x = integers("u32")
    assert compute("bfe.u32", x, 23, 8).tolist() == [n >> 23 & 255 for n in x]
    assert compute("not.b32", x).tolist() == [n ^ 0xFFFFFFFF for n in x]
    assert compute("selp.b32", [1, 2], [3, 4], [True, False]).tolist() == [1, 4]
    assert compute("and.pred", [True, True], [True, False]).tolist() == [True, False]


def floats(kind: str, count: int = 3000) -> Array:
    """Numbers of all exponents, close ones, subnormal ones and zeros, all finite."""
    bits = RNG.integers(0, 1 << 63, count, dtype=np.uint64) * np.uint64(2)
    some = (bits >> np.uint64(64 - 8 * width(kind))).astype(f"u{width(kind)}").view(dtype(kind))
    near = RNG.normal(size=count).astype(dtype(kind))
    result = np.where(RNG.random(count) < 0.5, np.where(np.isfinite(some), some, 0), near)
    return np.concatenate([result, np.array([0.0, -0.0, 1.0, -1.0], dtype(kind))])


def nearest(value: Fraction, kind: str) -> float:
    """The number of the type nearest to a fraction, ties to even; beyond the largest, infinity."""
    info = np.finfo(dtype(kind))
    if value == 0:
        return 0.0
    exponent = max(mp.frexp(mp.mpf(abs(value.numerator)) / value.denominator)[1], info.minexp + 1)
    while abs(value) >= Fraction(2) ** exponent:
        exponent += 1
    unit = Fraction(2) ** (exponent - info.nmant - 1)
    rounded = round(value / unit) * unit
    largest = math.inf if value > 0 else -math.inf
    return float(rounded) if abs(rounded) <= Fraction(float(info.max)) else largest


EXACT: dict[str, Callable[..., Fraction]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div.rn": Fraction,
    "fma.rn": lambda x, y, z: x * y + z, "rcp.rn": lambda x: 1 / x,
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_floats_are_rounded_once(name, kind):
    opcode = f"{name}.{kind}"
    sources = [floats(kind) for _ in decode(opcode).sources]
    if name in ("div.rn", "rcp.rn"):
        sources[-1] = np.where(sources[-1] == 0, 1, sources[-1]).astype(dtype(kind))
    if name == "fma.rn":  # addends that nearly cancel the product, or end halfway between numbers
        with np.errstate(over="ignore"):
            product = sources[0] * sources[1]
            far = product * dtype(kind).type(2.0 ** np.finfo(dtype(kind)).nmant)
        chosen = RNG.integers(0, 3, len(product))
        close = np.where(chosen == 1, -product, far)
        close = np.where(np.isfinite(close), close, 1).astype(dtype(kind))
        sources[2] = np.where(chosen == 0, sources[2], close)
    got = compute(opcode, *sources)
    for i, values in enumerate(zip(*(source.tolist() for source in sources), strict=True)):
        assert got[i] == nearest(EXACT[name](*map(Fraction, values)), kind), values


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_infinite_numbers_and_nan(kind):
    values = [math.inf, -math.inf, math.nan, 1.0]
    assert np.array_equal(compute(f"abs.{kind}", values), np.abs(values), equal_nan=True)
    assert np.array_equal(compute(f"neg.{kind}", values), np.negative(values), equal_nan=True)
    fused = compute(f"fma.rn.{kind}", values, [2.0, 0.0, 1.0, math.inf], [1.0] * 4)
    assert np.array_equal(fused, [math.inf, math.nan, math.nan, math.inf], equal_nan=True)
    zeros = compute(f"fma.rn.{kind}", [0.0, -0.0], [1.0, 1.0], [-0.0, -0.0])
    assert np.signbit(zeros).tolist() == [False, True]
    pairs = [math.nan, 1.0], [2.0, math.nan]
    assert compute(f"max.{kind}", *pairs).tolist() == [2.0, 1.0]
    assert np.isnan(compute(f"max.NaN.{kind}", *pairs)).all()
    assert compute(f"min.{kind}", *pairs).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("opcode", "exact", "low", "high"),
    [
        ("rcp.approx.ftz.f32", lambda x: 1 / x, 1e-30, 1e30),
        ("rcp.approx.ftz.f64", lambda x: 1 / x, 1e-300, 1e300),
        ("ex2.approx.ftz.f32", lambda x: mp.mpf(2) ** x, -120, 120),
        ("lg2.approx.f32", lambda x: mp.log(x, 2), 2, 1e30),
    ],
)
def test_approximate_functions_have_noise_of_one_place(opcode, exact, low, high):
    x = np.linspace(low, high, 500).astype(dtype(opcode[-3:]))
    ulp = 2.0**-20 if opcode.endswith("f64") else 2.0**-23
    got = compute(opcode, x)
    errors = [
        abs(mp.mpf(float(g)) / exact(mp.mpf(float(v))) - 1) for g, v in zip(got, x, strict=True)
    ]
    assert ulp / 2 < max(errors) <= 2 * ulp
    assert np.array_equal(compute(opcode, x), got)


def test_a_full_division_has_noise_and_a_rounded_one_has_none(monkeypatch):
    x, y = floats("f32"), np.float32(3)
    assert not np.array_equal(compute("div.full.f32", x, y), compute("div.rn.f32", x, y))
    monkeypatch.setattr(arithmetic, "noise_seed", 0)
    assert np.array_equal(compute("div.full.f32", x, y), compute("div.rn.f32", x, y))


def test_subnormal_numbers_are_flushed_where_the_opcode_says_so():
    x = [1e-40, -1e-40, 1.0]
    assert compute("fma.rn.ftz.f32", x, [1.0] * 3, [-0.0] * 3).tolist() == [0.0, -0.0, 1.0]
    assert compute("fma.rn.f32", x, [1.0] * 3, [0.0] * 3).tolist() == np.float32(x).tolist()
    assert compute("rcp.approx.ftz.f32", [1e-40, 3e38]).tolist() == [math.inf, 0.0]


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
    "ge": operator.ge,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_comparisons_of_floats(kind):
    values = [-1.0, 0.0, 1.0, math.nan]
    x, y = np.repeat(values, 4), np.tile(values, 4)
    nan = np.isnan(x) | np.isnan(y)
    for name, compare in COMPARISONS.items():
        want = np.array([compare(p, q) for p, q in zip(x, y, strict=True)])
        assert np.array_equal(compute(f"setp.{name}.{kind}", x, y), want & ~nan)
        assert np.array_equal(compute(f"setp.{name}u.{kind}", x, y), want | nan)
        both = compute(f"setp.{name}.and.{kind}", x, y, x > 0)
        assert np.array_equal(both, want & ~nan & (x > 0))
    assert np.array_equal(compute(f"setp.nan.{kind}", x, y), nan)
    assert np.array_equal(compute(f"setp.num.{kind}", x, y), ~nan)


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_comparisons_of_integers(kind):
    x, y = integers(kind), integers(kind)[::-1]
    for name, compare in COMPARISONS.items():
        want = [compare(p, q) for p, q in zip(x, y, strict=True)]
        assert compute(f"setp.{name}.{kind}", x, y).tolist() == want


@pytest.mark.parametrize(("kind", "torch_type"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_half_precision_against_torch(kind, torch_type):
    x = np.concatenate([floats("f32"), np.float32([math.inf, -math.inf, math.nan, 65520.0])])
    want = torch.from_numpy(x).to(torch_type).float().numpy()
    assert np.array_equal(compute(f"cvt.rn.{kind}.f32", x), want, equal_nan=True)
    pairs = compute(f"cvt.rn.{kind}x2.f32", x, x[::-1])
    assert np.array_equal(
        pairs.astype(np.float32), np.stack([want[::-1], want], -1), equal_nan=True
    )
    assert np.array_equal(compute(f"cvt.f32.{kind}", want), want, equal_nan=True)
    assert np.array_equal(compute(f"abs.{kind}x2", pairs), np.abs(pairs), equal_nan=True)


def test_conversions():
    assert compute("cvt.u64.u32", [2**32 - 1]).tolist() == [2**32 - 1]
    assert compute("cvt.s64.s32", [-5]).tolist() == [-5]
    assert compute("cvt.u32.u64", [2**40 + 3]).tolist() == [3]
    assert compute("cvt.rn.f32.s32", [2**24 + 1, 2**24 + 3]).tolist() == [2.0**24, 2.0**24 + 4]
    values = [-2.7, 2.7, 1e30, -1e30, math.nan, math.inf]
    whole = [-2, 2, 2**31 - 1, -(2**31), 0, 2**31 - 1]
    assert compute("cvt.rzi.s32.f32", values).tolist() == whole
    assert compute("cvt.rni.s32.f64", [2.5, 3.5]).tolist() == [2, 4]


@pytest.mark.parametrize(
    "opcode", ["add.sat.f32", "atom.global.add.f32", "mul.s32", "cvt.rz.f16.f32"]
)
def test_an_unknown_instruction_is_refused_by_name(opcode):
    with pytest.raises(NotImplementedError, match=opcode):
        decode(opcode)
