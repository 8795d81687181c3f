"""The GPU kernels of the gate F(x) v as a backend. Triton is imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from kat.ops.triton import backend

DEVICE_TYPE = backend.DEVICE_TYPE
supports = backend.supports
check_available = backend.check_available


def forward_into(*arguments: Any) -> None:
    """y <- F(x) v; arguments as in :func:`kat.ops.cpu.gated.forward_into`."""
    _launch().forward_into(*arguments)


def backward_into(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The gradients; arguments as in :func:`kat.ops.cpu.gated.backward_into`."""
    da, db = _launch().backward_into(*arguments)
    return da, db


def _launch() -> Any:
    return importlib.import_module(".gated_launch", __package__)
