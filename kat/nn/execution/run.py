"""Runs GR-KAN layers that are their formulas: one function, behind which the device decides.

On a CPU large layers run in blocks of rows, see :mod:`kat.nn.execution.blocks`. In training a layer
is one autograd function, which keeps its input x alone: the backward pass recomputes F(x) in the
same pass over x as the gradient of the rational. By themselves the rational keeps x and the linear
map F(x). In compiled code an MLP is one operator at inference on a CPU; ``torch.compile`` does not
look into it, since what it could fuse is little beside what blocks save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kat.nn.execution import blocks
from kat.nn.execution.layer import PARAMETERS, Layer
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import (
    constant_when_compiled,
    in_function_transform,
    is_ordinary,
    is_plain_eager,
    refuse_forward_mode,
)


def run_layers(x: Tensor, layers: Sequence[Layer], *, keeps_hidden: bool = True) -> Tensor:
    """y = W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k.

    Args:
        x: (..., d_in).
        layers: of :func:`kat.nn.execution.layer.formulas`.
        keeps_hidden: keep the inputs of all layers for the backward pass, or x alone, from which it
            then computes the others again.

    Returns:
        y, (..., d_out), in the dtype of autocast if that is active.
    """
    if not torch.is_grad_enabled():
        return _compiled(x, layers) if torch.compiler.is_compiling() else _value(x, layers)
    tensors = [tensor for layer in layers for tensor in layer.tensors]
    if not any(tensor is not None and tensor.requires_grad for tensor in (x, *tensors)):
        return _value(x, layers)
    forms = [layer.form for layer in layers]
    y: Tensor
    if _in_blocks(x, layers, recorded=True):
        y = _Layers.apply(x, forms, True, keeps_hidden, *tensors)
    elif keeps_hidden or len(layers) == 1:
        y = x
        for layer in layers:
            y = _Layers.apply(y, [layer.form], False, True, *layer.tensors)
    else:
        y = checkpoint(
            lambda x: run_layers(x, layers), x, use_reentrant=False, preserve_rng_state=False
        )
    return y


def _value(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    if _in_blocks(x, layers, recorded=False):
        return blocks.forward(x, layers)
    for layer in layers:
        x = layer.output(x)
    return x


def _in_blocks(x: Tensor, layers: Sequence[Layer], *, recorded: bool) -> bool:
    """Return True if the layers may and should run in blocks for x.

    Not on another device, where something observes or rewrites operations, where the kernel does
    not take the arguments, and where layers are small. Nor in training with products in bfloat16 or
    float16, whose sums over blocks would be rounded.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if _widest_bytes(x, layers) < blocks.least_bytes() or not is_ordinary(x):
        return False
    dtype = blocks.product_dtype(x.dtype)
    if recorded and dtype not in (torch.float32, torch.float64):
        return False
    for _, numerator, denominator, weight, bias in layers:
        dtypes = {weight.dtype, weight.dtype if bias is None else bias.dtype}
        if dtype == x.dtype and dtypes != {dtype}:
            return False
        if numerator is None or denominator is None:
            continue
        if not cpu.supports(x.dtype, numerator.shape[1] - 1, denominator.shape[1]):
            return False
    return True


def _widest_bytes(x: Tensor, layers: Sequence[Layer]) -> int:
    """The size of the widest of x (..., d_in) and the outputs of the layers."""
    width = max(x.shape[-1], *(layer.weight.shape[0] for layer in layers))
    return x.shape[:-1].numel() * width * x.element_size()


class _Layers(torch.autograd.Function):
    """Applied to x, the forms, two switches, and the parameters of all layers."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        forms: list[str],
        in_blocks: bool,
        keeps_hidden: bool,
        *parameters: Tensor | None,
    ) -> Tensor:
        layers = _layers(forms, parameters)
        hidden: list[Tensor] = []
        if in_blocks:
            if keeps_hidden:
                count = x.shape[:-1].numel()
                hidden = [x.new_empty(count, len(layer.weight)) for layer in layers[:-1]]
            y = blocks.forward(x, layers, hidden)
        else:
            y = layers[0].output(x.reshape(-1, x.shape[-1]))
            # autograd would refuse to let a view be changed in place
            y = torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))
        ctx.forms, ctx.in_blocks = forms, in_blocks
        last = layers[-1]._replace(bias=None)  # no gradient depends on it
        ctx.save_for_backward(x, *parameters[:-PARAMETERS], *last.tensors, *hidden)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = PARAMETERS * len(ctx.forms)
        layers, hidden = _layers(ctx.forms, saved[:count]), saved[count:]
        needs_x, _, _, _, *needs_parameters = ctx.needs_input_grad
        needs = [needs_x, *needs_parameters]
        ordinary = not torch.is_grad_enabled() and is_plain_eager(grad)
        if ctx.in_blocks and ordinary and not in_function_transform():
            found = blocks.backward(grad, x, layers, hidden, needs)
        else:
            found = _gradients(grad, x, layers, needs)
        return found[0], None, None, None, *found[1:]


def _layers(forms: Sequence[Any], parameters: Sequence[Any]) -> list[Layer]:
    starts = range(0, len(parameters), PARAMETERS)
    return [
        Layer._make((form, *parameters[start : start + PARAMETERS]))
        for start, form in zip(starts, forms, strict=True)
    ]


def _gradients(
    grad: Tensor, x: Tensor, layers: list[Layer], needs: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients of x and the parameters, of differentiable operations."""
    inputs = [x]
    for layer in layers[:-1]:
        inputs.append(layer.output(inputs[-1]))
    g: Tensor | None = grad
    found: list[Tensor | None] = []
    for layer, values in zip(reversed(layers), reversed(inputs), strict=True):
        start = len(needs) - len(found) - PARAMETERS
        if g is None:  # nothing below needs a gradient
            break
        needed = [any(needs[:start]), *needs[start : start + PARAMETERS]]
        g, *parameters = layer.gradients(g, values, needed)
        found = [*parameters, *found]
    nothing = [None] * (len(needs) - 1 - len(found))
    return [g, *nothing, *found]


def _compiled(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The output in compiled code: of one operator, or as plain operations.

    Plain ones on other devices, under autocast, and for a size that is fixed and too small for
    blocks. If the size is not fixed, the operator decides in each call.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import

    one = len(layers) > 1 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    one = one and all(layer.weight.dtype == x.dtype for layer in layers)
    if not one or statically_known_true(_widest_bytes(x, layers) < _least_bytes()):
        return _value(x, layers)
    parameters = [tensor for layer in layers for tensor in layer.tensors]
    forms = [layer.form for layer in layers]
    y: Tensor = torch.ops.kat.grkan_mlp.default(x, parameters, forms)
    return y


@constant_when_compiled
def _least_bytes() -> int:
    return blocks.least_bytes()


def _mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[str]) -> Tensor:
    refuse_forward_mode("rational")
    return _value(x, _layers(forms, parameters))


def _fake_mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[str]) -> Tensor:
    weight = parameters[-2]
    assert weight is not None
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


torch.library.define(
    "kat::grkan_mlp",
    "(Tensor x, Tensor?[] parameters, str[] forms) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("kat::grkan_mlp", "CompositeExplicitAutograd", _mlp)
torch.library.register_fake("kat::grkan_mlp", _fake_mlp)
