"""Quantization of weights to 8 bits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from kat.extras import require


def quantize_int8(model: nn.Module) -> nn.Module:
    """A copy with the weights of linear maps in int8: W_ij = s_i q_ij, with one float s_i a row.

    Activations and all arithmetic stay in float32: memory and files shrink, and no calibration is
    needed. Norms, embeddings and coefficients of rationals, a small part of the parameters, are
    left as they are. Uses torchao's ``Int8WeightOnlyConfig``.

    Args:
        model: a frozen model (:func:`kat.deploy.freeze`); it is not changed.

    Raises:
        InputError: torchao is not installed.

    Examples:
        >>> import kat
        >>> from kat.deploy import freeze, quantize_int8
        >>> model = kat.models.create_model("kat_micro", depth=1)
        >>> quantized = quantize_int8(freeze(model))
        >>> type(quantized.blocks[0].mlp.fc1.weight).__name__
        'Int8Tensor'
    """
    with _quiet_import():
        quantization = require("torchao.quantization", "int8")
        unwrap = require("torchao.utils", "int8").unwrap_tensor_subclass
    quantized = copy.deepcopy(model)
    quantization.quantize_(quantized, quantization.Int8WeightOnlyConfig())
    return unwrap(quantized).requires_grad_(False)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Hides torchao's warnings about its GPU libraries that this machine cannot load."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
