"""Weights in 8 bits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from kat.deploy.packages import require


def quantize_int8(model: nn.Module) -> nn.Module:
    """A copy whose linear maps hold their weights in int8: W_ij = s_i q_ij, s_i one float a row.

    Activations, and all arithmetic, stay in float32: memory and files shrink, and nothing has to
    be calibrated. Norms, embeddings and the rationals' coefficients, a small part of all
    parameters, are left alone. By torchao's ``Int8WeightOnlyConfig``.

    Args:
        model: a frozen model (:func:`kat.deploy.freeze`); it is left as it is.

    Raises:
        InputError: torchao is not installed.
    """
    with _quiet_import():
        quantization = require("torchao.quantization", "int8")
        unwrap = require("torchao.utils", "int8").unwrap_tensor_subclass
    quantized = copy.deepcopy(model)
    quantization.quantize_(quantized, quantization.Int8WeightOnlyConfig())
    return unwrap(quantized).requires_grad_(False)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """torchao says, at warning level, which of its GPU libraries do not load on this machine."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
