"""The CPU kernel: finds or builds the C++ library on first use, and calls it.

The library has a plain C interface and is called through ``ctypes``, which releases
the interpreter's lock. It runs on torch's own threads: it is handed the address of
``torch_parallel_for``, which torch exports from 2.10 on, so there is no second pool of threads, and
one binary serves every version of torch.

The environment variable ``KAT_CPU_KERNEL`` chooses: ``auto`` (the default), ``off``, or an
instruction set, ``baseline``, ``avx2`` or ``avx512``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kat.errors import BackendUnavailable
from kat.ops.cpu import build as cpu_build

MAX_DEGREE = 16
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
_DATA_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_FORMS = {"A": 0, "B": 1}
_CALL = struct.Struct("=19q")
_STATUS = {1: "out of memory", 2: "a case that it does not support", 3: "torch's threads failed"}
_TORCH_LIBRARY = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}


class Library(NamedTuple):
    """The loaded kernel."""

    call: Callable[[bytes], int]
    parallel_for: int
    instruction_set: int


def serves(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Whether the kernel takes these arguments. Warns, once, if it ought to but cannot be had."""
    if _unsupported(x.dtype, numerator.shape[1] - 1, denominator.shape[1]):
        return False
    found = _library()
    if isinstance(found, Library):
        return True
    if os.environ.get("KAT_CPU_KERNEL") != "off":
        _warn(found)
    return False


def require(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    """Returns if the kernel takes these arguments.

    Raises:
        ValueError: x is not on the CPU.
        RuntimeError: the kernel cannot be had, or does not take the dtype or the degrees.
    """
    if x.device.type != "cpu":
        raise ValueError(f"impl='cpu' needs x on the cpu, but x is on {x.device}")
    reason = _refusal(x.dtype, numerator.shape[1] - 1, denominator.shape[1])
    if reason:
        raise BackendUnavailable(f"impl='cpu' is not available: {reason}")


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), of x's shape, dtype and layout; for arguments that the kernel :func:`serves`."""
    y = torch.empty_like(x)
    if x.numel():
        a, b = _coefficients(x, numerator, denominator)
        x = _laid_out_like(y, x)
        _call(form, x, None, y, None, a, b, None, None)
    return y


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator.

    The sums for the coefficients are the same, bit by bit, whatever the number of threads.

    Args:
        grad: of x's shape; it is cast to x's dtype.
        x, numerator, denominator, form: arguments that the kernel :func:`serves`.
    """
    return _backward(grad, x, numerator, denominator, form, None)


def backward_and_value(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`backward`, and F(x) from the same pass over memory."""
    y = torch.empty_like(x)
    return *_backward(grad, x, numerator, denominator, form, y), y


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str, y: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dx = torch.empty_like(x)
    a, b = _coefficients(x, numerator, denominator)
    da, db = torch.empty_like(a), torch.empty_like(b)
    if x.numel():
        _call(form, _laid_out_like(dx, x), _laid_out_like(dx, grad), y, dx, a, b, da, db)
    else:
        da.zero_()
        db.zero_()
    return dx, da.to(numerator.dtype), db.to(denominator.dtype)


def _call(
    form: str,
    x: Tensor,
    grad: Tensor | None,
    y: Tensor | None,
    dx: Tensor | None,
    a: Tensor,
    b: Tensor,
    da: Tensor | None,
    db: Tensor | None,
) -> None:
    """Runs the kernel on dense tensors of one layout. The order below is RationalCall's."""
    library = _library()
    assert isinstance(library, Library)
    status = library.call(
        _CALL.pack(
            library.parallel_for,
            library.instruction_set,
            _DATA_TYPES[x.dtype],
            _FORMS[form],
            x.numel(),
            x.shape[-1],
            x.stride(-1) if x.shape[-1] > 1 else 1,  # where it says nothing, and may be 0
            x.data_ptr(),
            0 if grad is None else grad.data_ptr(),
            0 if y is None else y.data_ptr(),
            0 if dx is None else dx.data_ptr(),
            a.data_ptr(),
            *a.shape,
            b.data_ptr(),
            *b.shape,
            0 if da is None else da.data_ptr(),
            0 if db is None else db.data_ptr(),
        )
    )
    if status:
        raise RuntimeError(f"the CPU kernel failed: {_STATUS.get(status, status)}")


def _coefficients(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return _dense(numerator, dtype), _dense(denominator, dtype)


def _dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype == dtype and tensor.is_contiguous():
        return tensor
    return tensor.to(dtype).contiguous()


def _laid_out_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """``tensor`` itself where its strides and dtype are the pattern's, else a copy that has them.

    A pattern from ``empty_like(x)`` is dense, in x's own order of dimensions where x is dense. So
    channels last, [B, C, H, W] and any other permutation of a dense tensor cost no copy.
    """
    if tensor.stride() == pattern.stride() and tensor.dtype == pattern.dtype:
        return tensor
    return torch.empty_like(pattern).copy_(tensor)


def _unsupported(dtype: torch.dtype, m: int, n: int) -> str:
    if dtype not in _DATA_TYPES:
        return f"the kernel does not take {dtype}"
    if max(m, n) > MAX_DEGREE:
        return f"the kernel takes degrees up to {MAX_DEGREE}, got ({m}, {n})"
    return ""


@torch.compiler.assume_constant_result
def _refusal(dtype: torch.dtype, m: int, n: int) -> str:
    """Why the kernel cannot serve, or nothing."""
    found = _library()
    return _unsupported(dtype, m, n) or (found if isinstance(found, str) else "")


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(
        f"kat's CPU kernel is not available, so the slower PyTorch reference runs: {reason}"
        " (KAT_CPU_KERNEL=off chooses the reference without this warning)",
        RuntimeWarning,
        stacklevel=3,
    )


_loading = threading.Lock()
_loaded: Library | str | None = None


def _library() -> Library | str:
    """The kernel, found or built on the first call, or the reason why there is none."""
    global _loaded
    if _loaded is None:
        with _loading:
            if _loaded is None:
                _loaded = _load(os.environ.get("KAT_CPU_KERNEL", "auto"))
    return _loaded


def _load(choice: str) -> Library | str:
    if choice not in ("auto", "off", *INSTRUCTION_SETS):
        known = ", ".join(("auto", "off", *INSTRUCTION_SETS))
        return f"KAT_CPU_KERNEL={choice!r} is none of {known}"
    if choice == "off":
        return "KAT_CPU_KERNEL=off"
    parallel_for = _torch_parallel_for()
    if not parallel_for:
        return f"torch {torch.__version__} does not export torch_parallel_for; torch >= 2.10 does"
    try:
        binary = _prebuilt() or _open(cpu_build.cached_library())
    except (cpu_build.BuildError, OSError) as error:
        return str(error)
    best = _best_instruction_set()
    wanted = best if choice == "auto" else INSTRUCTION_SETS.index(choice)
    if wanted > best:
        return f"KAT_CPU_KERNEL={choice}, but this processor has {INSTRUCTION_SETS[best]}"
    return Library(binary.kat_rational, parallel_for, wanted)


def _prebuilt() -> ctypes.CDLL | None:
    """The library that installing the package built, if it is of this source and loads here."""
    try:
        binary = _open(cpu_build.PREBUILT)
    except OSError:
        return None
    return binary if binary.kat_source_hash().decode() == cpu_build.source_hash() else None


def _open(path: Path) -> ctypes.CDLL:
    binary = ctypes.CDLL(str(path))
    binary.kat_rational.argtypes = [ctypes.c_char_p]
    binary.kat_rational.restype = ctypes.c_int32
    binary.kat_source_hash.restype = ctypes.c_char_p
    return binary


def _best_instruction_set() -> int:
    """The index of the widest instruction set, as torch found it out for its own kernels."""
    found = torch.backends.cpu.get_cpu_capability().lower()
    return INSTRUCTION_SETS.index(found) if found in INSTRUCTION_SETS else 0


def _torch_parallel_for() -> int | None:
    """The address of torch's loop over threads, from the torch library that is loaded already."""
    name = _TORCH_LIBRARY.get(sys.platform, "libtorch_cpu.so")
    path = Path(torch.__file__).parent / "lib" / name
    try:
        torch_library = ctypes.CDLL(str(path) if path.exists() else None)
        return ctypes.cast(torch_library.torch_parallel_for, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
