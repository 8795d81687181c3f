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

from tests.ptx.arithmetic import Array
from tests.ptx.instructions import decode, dtype, from_bits, to_bits, width

RNG = np.random.default_rng(0)


def compute(opcode: str, *sources: Any) -> Array:
    """The result of an instruction, for values of any type."""
    operation = decode(opcode)
    kinds = zip(sources, operation.sources, strict=True)
    assert operation.compute
    with np.errstate(all="ignore"):
        result = operation.compute(*(np.asarray(s, dtype(kind)) for s, kind in kinds))
        return from_bits(to_bits(result, operation.result), operation.result)


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


@pytest.mark.parametrize(
    "opcode", ["add.sat.f32", "atom.global.add.f32", "mul.s32", "cvt.rz.f16.f32"]
)
def test_an_unknown_instruction_is_refused_by_name(opcode):
    with pytest.raises(NotImplementedError, match=opcode):
        decode(opcode)
