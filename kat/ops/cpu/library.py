"""The C++ library of the CPU backend: found or built on first use, and called through ``ctypes``.

``ctypes`` releases the interpreter lock. The library runs on torch's own threads: it gets the
address of ``torch_parallel_for``, which torch exports from 2.10 on. So there is no second thread
pool, and one binary serves every version of torch.

The environment variable ``KAT_CPU_KERNEL`` is ``auto`` (the default), ``off``, or an instruction
set: ``baseline``, ``avx2`` or ``avx512``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kat.ops.arguments import FORMS, Rational
from kat.ops.cpu import build
from kat.ops.cpu.build import INSTRUCTION_SETS

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
_FORM_CODES: dict[str, int] = {form: code for code, form in enumerate(FORMS)}
_CALL = struct.Struct("=24q")
_OUT_OF_RANGE = 4
_STATUS = {1: "out of memory", 2: "an unsupported case", 3: "torch's threads failed"}
_TORCH_LIBRARY = {"darwin": "libtorch_cpu.dylib", "win32": "torch_cpu.dll"}


class Library(NamedTuple):
    """The loaded library and the first members of each call.

    Attributes:
        path: the file.
        available: the instruction sets for which it was compiled.
        call: its function, which takes :meth:`arguments` and returns a status.
        parallel_for: the address of torch's parallel loop.
        instruction_set: the index in ``INSTRUCTION_SETS`` of the one that runs.
    """

    path: Path
    available: tuple[str, ...]
    call: Callable[[bytes], int]
    parallel_for: int
    instruction_set: int

    @property
    def name(self) -> str:
        """The name of the instruction set that runs."""
        return INSTRUCTION_SETS[self.instruction_set]

    def arguments(
        self,
        f: Rational,
        x: Tensor,
        *,
        v: Tensor | None = None,
        y: Tensor | None = None,
        grad: Tensor | None = None,
        dx: Tensor | None = None,
        dv: Tensor | None = None,
        da: Tensor | None = None,
        db: Tensor | None = None,
        order: int = 0,
    ) -> bytes:
        """Return what ``call`` takes, to compute y, or where ``grad`` is given dx, da, db and y.

        These are addresses, so the caller keeps the tensors until the call has returned.

        x, grad, y and dx are dense, of one dtype and one order of dimensions; the coefficients, da
        and db are contiguous, in the dtype of the arithmetic. With an order, 1 to 3, that
        derivative takes the place of F, and x is in the dtype of the arithmetic too.

        With v, y = F(x) v: x, v, dx and dv are (rows, channels) with contiguous channels; x and v
        have rows of one stride, dx and dv too. grad and y are contiguous.
        """
        a, b, form = f
        channels = x.shape[-1]
        stride = x.stride(-1) if channels > 1 else 1  # of one channel it is arbitrary, even 0
        gate = (0, 0, 0, 0) if v is None else _gate(x, v, dx, dv)
        return _CALL.pack(  # in the order of RationalCall
            self.parallel_for,
            self.instruction_set,
            _DTYPE_CODES[x.dtype],
            _FORM_CODES[form],
            x.numel(),
            channels,
            stride,
            x.data_ptr(),
            _address(grad),
            _address(y),
            _address(dx),
            a.data_ptr(),
            *a.shape,
            b.data_ptr(),
            *b.shape,
            _address(da),
            _address(db),
            order,
            *gate,
        )


def in_range(status: int) -> bool:
    """Return True if no power overflowed in a derivative; if not, the outputs are unusable.

    Args:
        status: what ``call`` returned.

    Raises:
        RuntimeError: the call failed.
    """
    if status and status != _OUT_OF_RANGE:
        raise RuntimeError(f"the CPU kernel failed: {_STATUS.get(status, status)}")
    return status != _OUT_OF_RANGE


def _gate(x: Tensor, v: Tensor, dx: Tensor | None, dv: Tensor | None) -> tuple[int, ...]:
    outputs_apart = x.shape[-1] if dx is None else dx.stride(0)
    return v.data_ptr(), _address(dv), v.stride(0), outputs_apart


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def loaded_library() -> Library:
    """Return the library, where the kernel supports the arguments."""
    library = find_library()
    assert isinstance(library, Library)
    return library


@functools.cache
def find_library() -> Library | str:
    """Return the library, found or built on the first call, or the reason why it is unavailable."""
    choice = os.environ.get("KAT_CPU_KERNEL", "auto")
    if choice not in ("auto", "off", *INSTRUCTION_SETS):
        known = ", ".join(("auto", "off", *INSTRUCTION_SETS))
        return f"KAT_CPU_KERNEL={choice!r} is not one of {known}"
    if choice == "off":
        return "KAT_CPU_KERNEL=off"
    parallel_for = _torch_parallel_for()
    if not parallel_for:
        return f"torch {torch.__version__} does not export torch_parallel_for; torch >= 2.10 does"
    best = _best_instruction_set()
    wanted = best if choice == "auto" else INSTRUCTION_SETS.index(choice)
    if wanted > best:
        return f"KAT_CPU_KERNEL={choice}, but this processor supports {INSTRUCTION_SETS[best]} only"
    try:
        path, binary = _open_prebuilt() or _open(build.cached_library(1 << wanted))
    except build.BuildError as error:
        return str(error)
    except OSError as error:
        return f"{error}; delete this file, and it is built again"
    sets = binary.kat_instruction_sets()
    available = tuple(name for i, name in enumerate(INSTRUCTION_SETS) if sets >> i & 1)
    return Library(path, available, binary.kat_rational, parallel_for, wanted)


def _open_prebuilt() -> tuple[Path, ctypes.CDLL] | None:
    """Return the library that was built on installation, if it loads and is of this source."""
    try:
        path, binary = _open(build.PREBUILT)
    except (OSError, AttributeError):  # AttributeError: of an older source, without a function
        return None
    return (path, binary) if binary.kat_source_hash().decode() == build.source_hash() else None


def _open(path: Path) -> tuple[Path, ctypes.CDLL]:
    binary = ctypes.CDLL(str(path))
    binary.kat_rational.argtypes = [ctypes.c_char_p]
    binary.kat_rational.restype = ctypes.c_int32
    binary.kat_source_hash.restype = ctypes.c_char_p
    binary.kat_instruction_sets.restype = ctypes.c_int64
    return path, binary


def _best_instruction_set() -> int:
    """Return the index of the widest instruction set, as torch detected it for its own kernels."""
    found = torch.backends.cpu.get_cpu_capability().lower()
    return INSTRUCTION_SETS.index(found) if found in INSTRUCTION_SETS else 0


def _torch_parallel_for() -> int | None:
    """Return the address of torch's parallel loop in the torch library that is already loaded."""
    name = _TORCH_LIBRARY.get(sys.platform, "libtorch_cpu.so")
    path = Path(torch.__file__).parent / "lib" / name
    try:
        torch_library = ctypes.CDLL(str(path) if path.exists() else None)
        return ctypes.cast(torch_library.torch_parallel_for, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
