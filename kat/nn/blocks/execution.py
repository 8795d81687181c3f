"""Layers in blocks of rows as one operation: for hooks, in autograd, and in compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from kat.nn.blocks import passes, sizes
from kat.nn.blocks.decision import has_kernels, is_recorded
from kat.nn.blocks.passes import PARAMETERS, Layer, layers_of, parameters_of
from kat.nn.rational import product_dtype
from kat.ops import Form, rational
from kat.ops.torch_internals import in_function_transform, is_eager, refuse_forward_mode


def run(x: Tensor, layers: Sequence[Layer], v: Tensor | None, *, keep: str | None) -> Tensor:
    """Return the output of layers that :func:`blocks.layers` returned.

    Args:
        x: (..., d_in).
        layers: all layers of the module, or some that follow each other.
        v: the value of a gate.
        keep: of the module.
    """
    forms = [layer.form for layer in layers]
    if torch.compiler.is_compiling():
        y: Tensor = torch.ops.kat.grkan_mlp.default(x, parameters_of(layers), forms)
        return y
    dtype = product_dtype(x)
    if not is_recorded(x, layers, v):
        return passes.forward(x, layers, dtype=dtype, v=v)
    recorded: Tensor = _Blocks.apply(x, v, forms, dtype, keep != "input", *parameters_of(layers))
    return recorded


# ---- in autograd


class _Blocks(torch.autograd.Function):
    """Applied to x, v, the forms, the products' dtype, a switch, and the parameters of all layers.

    In bfloat16 and float16 there is one block: sums over blocks would be rounded.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor | None,
        forms: list[Form],
        dtype: torch.dtype,
        keeps_hidden: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        layers = layers_of(forms, parameters)
        hidden: list[Tensor] = []
        if keeps_hidden:
            count = x.shape[:-1].numel()
            hidden = [x.new_empty(count, len(layer.weight), dtype=dtype) for layer in layers[:-1]]
        ctx.forms, ctx.whole = forms, dtype.itemsize == 2
        y = passes.forward(x, layers, dtype=dtype, v=v, hidden=hidden, whole=ctx.whole)
        kept = parameters[:-1]  # no gradient depends on the last bias
        ctx.save_for_backward(x, v, *kept, None, *hidden)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, v, *saved = ctx.saved_tensors
        count = PARAMETERS * len(ctx.forms)
        layers = layers_of(ctx.forms, saved[:count])
        hidden = [tensor.contiguous() for tensor in saved[count:]]
        needs_x, needs_v, _, _, _, *needs = ctx.needs_input_grad
        if torch.is_grad_enabled() or in_function_transform() or not is_eager(grad):
            dx, dv, *sums = _recorded(grad, x, v, layers, [needs_x, needs_v, *needs])
        else:
            dx, dv, sums = passes.backward(
                grad,
                x,
                layers,
                needs=[needs_x or needs_v, *needs],
                v=v,
                hidden=hidden,
                whole=ctx.whole,
            )
        return dx, dv, None, None, None, *sums


def _recorded(
    grad: Tensor, x: Tensor, v: Tensor | None, layers: Sequence[Layer], needs: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of the layers' formula by autograd, differentiable again."""
    places: list[Any] = [x, v, *parameters_of(layers)]
    if needs[-1]:  # the last bias is not kept
        weight = layers[-1].weight
        places[-1] = weight.new_zeros(len(weight), requires_grad=True)
    needed = [number for number, need in enumerate(needs) if need]
    with torch.enable_grad():
        # A tensor may take several places, each of which has a gradient of its own.
        for number in needed:
            places[number] = places[number].view_as(places[number])
        forms = [layer.form for layer in layers]
        y = _formula(places[0], places[1], layers_of(forms, places[2:]), grad.dtype)
    wanted = [places[number] for number in needed]
    found = torch.autograd.grad(y, wanted, grad, create_graph=torch.is_grad_enabled())
    gradients: list[Tensor | None] = [None] * len(needs)
    for number, gradient in zip(needed, found, strict=True):
        gradients[number] = gradient
    return gradients


def _formula(x: Tensor, v: Tensor | None, layers: Sequence[Layer], dtype: torch.dtype) -> Tensor:
    """W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k by plain operations, with products in a dtype."""
    for f, weight, bias in layers:
        y = x if f is None else rational(x, f.numerator, f.denominator, v, form=cast(Form, f.form))
        bias = None if bias is None else bias.to(dtype)
        x = functional.linear(y.to(dtype), weight.to(dtype), bias)
    return x


# ---- in compiled code


def _mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[Form]) -> Tensor:
    refuse_forward_mode()
    layers = layers_of(forms, parameters)
    large = sizes.widest_bytes(x, [len(layer.weight) for layer in layers]) >= sizes.least_bytes()
    if large and has_kernels(x, layers, None):
        return passes.forward(x, layers, dtype=x.dtype)
    return _formula(x, None, layers, x.dtype)


def _fake_mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[Form]) -> Tensor:
    return x.new_empty((*x.shape[:-1], len(layers_of(forms, parameters)[-1].weight)))


torch.library.define(
    "kat::grkan_mlp",
    "(Tensor x, Tensor?[] parameters, str[] forms) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("kat::grkan_mlp", "CompositeExplicitAutograd", _mlp)
torch.library.register_fake("kat::grkan_mlp", _fake_mlp)
