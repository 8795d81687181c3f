"""A GR-KAN layer y = W F(x) + bias by its modules, or in blocks of rows on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat.nn.blocks import Parts, has_no_effect, plain_coefficients, product_dtype, run_in_blocks
from kat.nn.hooks import call_grkan_hooks
from kat.nn.rational import GroupRational
from kat.ops import rational
from kat.ops.torch_internals import in_function_transform, is_exporting, is_patched


def run_layer(
    x: Tensor, part: Parts, *, keep: str | None, small: bool, v: Tensor | None = None
) -> Tensor:
    """W F(x) + bias, or W (F(x) v) + bias of a gate, shown to the hooks on all GR-KAN layers.

    Args:
        x: (..., d_in).
        part: the modules. Without a rational, an ``nn.Identity`` in its place, a layer is its
            linear map alone.
        keep: see :data:`kat.nn.Keep`.
        small: the call :func:`kat.nn.blocks.is_small`; the modules run.
        v: the value of a gate, of x's shape.
    """
    y = None if small else run_in_blocks(x, (part,), keep=keep, v=v)
    if y is None and keep in ("hidden", "input") and may_checkpoint():
        y = checkpoint(_by_modules, x, part, v, use_reentrant=False)
    if y is None:
        y = _by_modules(x, part, v)
    if type(part.activation) is not nn.Identity:
        call_grkan_hooks(part.activation, part.linear, x, y)
    return y


def may_checkpoint() -> bool:
    """Return True if a backward pass may follow that can run the modules again."""
    return torch.is_grad_enabled() and not in_function_transform() and not is_exporting()


def _by_modules(x: Tensor, part: Parts, v: Tensor | None) -> Tensor:
    """linear(norm(drop(F(x)))): dropout and norm are called where they have an effect."""
    y = _activated(x, part.activation) if v is None else _gated(x, part.activation, v)
    for module in part.between:
        if not has_no_effect(module):
            y = module(y)
    output: Tensor = part.linear(y)
    return output


def _activated(x: Tensor, activation: Any) -> Tensor:
    """F(x) in the dtype of the product that follows.

    Under autocast F writes that dtype. In compiled code x is cast instead, together with what has
    made x, as the input of a ViT's MLP is.
    """
    if type(activation) is not GroupRational or not isinstance(x, Tensor):
        y: Tensor = activation(x)
        return y
    dtype = product_dtype(x)
    if dtype == x.dtype or is_patched(activation):
        y = activation(x)
    elif torch.compiler.is_compiling():
        y = activation(x.to(dtype))
    else:
        y = activation(x, dtype)
    return y


def _gated(x: Tensor, activation: Any, v: Tensor) -> Tensor:
    """F(x) v, by one operator where the activation is no more than its formula."""
    coefficients = plain_coefficients(activation)
    if coefficients is None:
        y: Tensor = activation(x) * v
        return y
    activation.check_channels(x)
    numerator, denominator = coefficients
    return rational(x, numerator, denominator, v, form=activation.form, impl=activation.impl)
