"""The GPU kernels of F(LayerNorm(x)) as a backend. Triton is imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from kat.errors import BackendUnavailable
from kat.ops.triton import backend

DEVICE_TYPE = backend.DEVICE_TYPE


def supports(x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
    """Return True if Triton runs and a program holds a row. Warns once if Triton does not run."""
    if not backend.supports(x, numerator, denominator):
        return False
    fits: bool = _launch().fits(x, numerator, denominator)
    return fits


def check_available(x: Tensor, numerator: Tensor, denominator: Tensor) -> None:
    """Checks that the kernels run on x's device, or interpreted on the CPU, and hold a row.

    Raises:
        BackendUnavailable: Triton does not run, or rows are too long.
        ValueError: x is not on a CUDA device.
    """
    backend.check_available(x, numerator, denominator)
    if not torch.compiler.is_compiling() and not _launch().fits(x, numerator, denominator):
        raise BackendUnavailable(
            f"impl='triton' is unavailable: a program does not hold {x.shape[-1]} channels; it"
            " holds 4096 where a group's channels are divisible by 4, 2048 in float64"
        )


def forward_into(*arguments: Any) -> None:
    """y <- F(LayerNorm(x)); arguments as in :func:`kat.ops.cpu.norm.forward_into`."""
    _launch().forward_into(*arguments)


def backward_into(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients; arguments as in :func:`kat.ops.cpu.norm.backward_into`."""
    d_weight, d_bias, da, db = _launch().backward_into(*arguments)
    return d_weight, d_bias, da, db


def _launch() -> Any:
    return importlib.import_module(".norm_launch", __package__)
