"""The decision which layers run in blocks of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kat.nn.blocks import sizes
from kat.nn.blocks.passes import Layer, parameters_of
from kat.nn.hooks import has_grkan_hooks
from kat.nn.rational import GroupRational, product_dtype
from kat.ops.arguments import Rational, check_arguments
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import (
    in_function_transform,
    is_exporting,
    is_ordinary,
    is_patched,
)

SMALL = 1 << 15
"""Fewer values of x than this are a small call: what Python asks takes longer than F."""
_TENSOR_TYPES = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""
Modules: TypeAlias = Sequence[nn.Module]
"""A rational, or an ``nn.Identity`` in its place; dropout and norm; the linear map."""


def layers(module: Any, x: Tensor, v: Tensor | None = None) -> list[Layer] | None:
    """Return the tensors of a module's layers if they are to run in blocks of rows of x; else None.

    Blocks are for a large call of layers that are no more than their formula, on a CPU. For an MLP
    this includes compiled inference.

    Args:
        module: a GR-KAN layer or MLP.
        x: its input, or of the rational in a gate.
        v: of x's shape, the value of a gate.
    """
    if type(x) not in _TENSOR_TYPES or x.device.type != "cpu":
        return None
    compiling, keep = torch.compiler.is_compiling(), module.keep
    if not compiling and x.numel() < (SMALL if keep is None else 1):
        return None
    modules = module.grkan_layers()
    if not compiling and not torch.is_grad_enabled() and _stays_in_caches(x, modules):
        return None
    if in_function_transform() or is_exporting():
        return None
    found = _fusible_layers(x, modules)
    if found is None:
        return None
    if compiling:
        return found if _has_operator(x, found) else None
    if (keep == "all" and is_recorded(x, found, v)) or not has_kernels(x, found, v):
        return None
    return found


def _stays_in_caches(x: Tensor, modules: Sequence[Modules]) -> bool:
    """Return True if eager layers stay in the caches without blocks. Nothing else is kept."""
    widths = [getattr(own[-1], "out_features", 0) for own in modules]
    return x.dim() > 0 and sizes.widest_bytes(x, widths) < sizes.least_bytes()


def _fusible_layers(x: Tensor, modules: Sequence[Modules]) -> list[Layer] | None:
    """Return the tensors of layers that are no more than their formula, and take x; else None.

    A layer does more if a module is patched (hooks, a derived class, a ``forward`` of its own,
    parameters of a tensor subclass), was given a backend by name, or does something between a
    rational and its linear map. Where tensors do not fit together, the modules say what is wrong.
    """
    found: list[Layer] = []
    width = x.shape[-1:]
    for own in modules:
        layer = _fusible_layer(own)
        if layer is None:
            return None
        weight = layer.weight
        if weight.shape[1:] != width or weight.device != x.device or weight.layout != x.layout:
            return None
        found.append(layer)
        width = weight.shape[:1]
    return found


def _fusible_layer(modules: Modules) -> Layer | None:
    """Return the tensors of a layer that is no more than its formula; else None."""
    activation, *between, linear = modules
    for module in between:
        if not _has_no_effect(module):
            return None
    if type(linear) is not nn.Linear or is_patched(linear):
        return None
    weight, bias = linear.weight, linear.bias
    if type(weight) not in _TENSOR_TYPES or not (bias is None or type(bias) in _TENSOR_TYPES):
        return None
    if type(activation) is nn.Identity and not is_patched(activation):
        return Layer(None, weight, bias)
    if type(activation) is not GroupRational or is_patched(activation):
        return None
    if activation.channel_dim != -1 or activation.impl is not None:
        return None
    if activation.num_channels not in (None, weight.shape[1]):
        return None
    f = Rational(activation.weight_numerator, activation.weight_denominator, activation.form)
    if type(f.numerator) not in _TENSOR_TYPES or type(f.denominator) not in _TENSOR_TYPES:
        return None
    try:
        check_arguments(f, weight)  # as wide as F(x)
    except (TypeError, ValueError):
        return None
    return Layer(f, weight, bias)


def _has_no_effect(module: nn.Module) -> bool:
    """Return True if a dropout or norm returns its input, and nothing observes it."""
    if type(module) is nn.Dropout:
        return not (module.training and module.p > 0) and not is_patched(module)
    return type(module) is nn.Identity and not is_patched(module)


def is_recorded(x: Tensor, layers: Sequence[Layer], v: Tensor | None) -> bool:
    """Return True if a backward pass may follow."""
    if not torch.is_grad_enabled():
        return False
    tensors = (x, v, *parameters_of(layers))
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def has_kernels(x: Tensor, layers: Sequence[Layer], v: Tensor | None) -> bool:
    """Return True if nothing observes or rewrites operations, and the kernel takes the layers."""
    if not is_ordinary(x, v):
        return False
    if v is not None and (v.shape, v.dtype, v.device) != (x.shape, x.dtype, x.device):
        return False
    dtype = product_dtype(x)
    for f, weight, bias in layers:
        dtypes = {weight.dtype, weight.dtype if bias is None else bias.dtype}
        if dtype == x.dtype and dtypes != {dtype}:
            return False
        if f is not None and not cpu.supports(f, x):
            return False
    return True


def _has_operator(x: Tensor, layers: Sequence[Layer]) -> bool:
    """Return True if compiled layers are one operator, which decides for blocks in each call.

    So is an MLP at inference: ``torch.compile`` does not look into the operator, since what it
    could fuse is little beside what blocks save. An MLP consists of plain operations under
    autocast, and for a size that is fixed and too small for blocks.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    if len(layers) < 2 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if has_grkan_hooks():
        return False
    if any(layer.weight.dtype != x.dtype for layer in layers):
        return False
    widths = [len(layer.weight) for layer in layers]
    return not statically_known_true(sizes.widest_bytes(x, widths) < sizes.least_bytes())
