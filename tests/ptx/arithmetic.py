"""Arithmetic that NumPy lacks: fused multiply-add, bfloat16, and noise of the last place."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

noise_seed = 1
"""Chooses the noise of the approximate instructions; 0 is none."""


def fma(a: Array, b: Array, c: Array) -> Array:
    """a b + c, rounded once, in float32 or float64."""
    return _fma32(a, b, c) if np.result_type(a) == np.float32 else _fma64(a, b, c)


def _fma32(a: Array, b: Array, c: Array) -> Array:
    """In float64, where the product is exact and the sum is rounded to odd."""
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    return np.asarray(_sum_to_odd(product, addend)).astype(np.float32)


def _fma64(a: Array, b: Array, c: Array) -> Array:
    """By exact products and sums (Boldo and Melquiond, 2008); by libm where exponents are large."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product = a * b
    high, low = _product(a, b, product)
    rest, rest_low = _sum(c, low)
    top, top_low = _sum(high, rest)
    result = np.where(product == 0, product + c, top + _sum_to_odd(rest_low, top_low))
    sizes = [np.abs(value) for value in (a, b, product, c)]
    usual = [((size > 2.0**-800) & (size < 2.0**800)) | (size == 0) for size in sizes]
    exact = usual[0] & usual[1] & usual[3] & (usual[2] & (product != 0) | (a == 0) | (b == 0))
    for i in zip(*np.nonzero(~exact), strict=True):
        result[i] = _LIBM_FMA(a[i], b[i], c[i])
    return result


_LIBM_FMA: Any = ctypes.CDLL("libm.so.6").fma
_LIBM_FMA.restype, _LIBM_FMA.argtypes = ctypes.c_double, [ctypes.c_double] * 3


def _sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and its error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _sum_to_odd(a: Array, b: Array) -> Array:
    """a + b; if it is not exact, the neighbor whose last bit is 1. To round it again is exact."""
    total, error = (np.atleast_1d(value) for value in _sum(a, b))
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + step, bits).view(np.float64).reshape(np.shape(a + b))


def _product(a: Array, b: Array, product: Array) -> tuple[Array, Array]:
    """The rounded product and its error (Veltkamp, Dekker)."""
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def _halves(a: Array) -> tuple[Array, Array]:
    scaled = a * (2.0**27 + 1)
    high = scaled - (scaled - a)
    return high, a - high


def bfloat16_to_float32(bits: Array) -> Array:
    return (np.asarray(bits, np.uint32) << np.uint32(16)).view(np.float32)


def float32_to_bfloat16(values: Array) -> Array:
    """Round to the nearest, ties to even; NaN becomes 0x7fff."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), 0x7FFF, rounded).astype(np.uint16)


def flushed(values: Array) -> Array:
    """Zeros of the same sign in place of subnormal numbers."""
    tiny = np.finfo(values.dtype).smallest_normal
    return np.where(np.abs(values) < tiny, values * 0, values)


def noisy(values: Array, dropped: int = 0) -> Array:
    """Move each value by -1, 0 or 1 unit in the last place, the same for equal values.

    Args:
        values: float32, or float64.
        dropped: how many low bits the instruction leaves 0; the last place is the one above.
    """
    bits = np.asarray(values).view(f"i{values.dtype.itemsize}") >> dropped << dropped
    wide = bits.astype(np.uint64) >> np.uint64(dropped)
    hashed = (wide + np.uint64(noise_seed)) * np.uint64(0x9E3779B97F4A7C15)
    step = (hashed >> np.uint64(40)).astype(np.int64) % 3 - 1
    info = np.finfo(values.dtype)
    ordinary = (np.abs(values) > 2 * info.smallest_normal) & (np.abs(values) < info.max / 2)
    moved = bits + (step << dropped).astype(bits.dtype)
    return np.where(ordinary & (noise_seed != 0), moved, bits).view(values.dtype)
