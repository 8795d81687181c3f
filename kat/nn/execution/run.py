"""Runs GR-KAN layers: by one function where they are their formulas, and by their modules if not.

Behind that function the device decides. On a CPU large layers run in blocks of rows, see
:mod:`kat.nn.execution.blocks`. In training a layer is one autograd function, which keeps its input
x alone: the backward pass recomputes F(x) in the same pass over x as the gradient of the rational.
By themselves the rational keeps x and the linear map F(x). In compiled code an MLP is one operator
at inference on a CPU; ``torch.compile`` does not look into it, since what it could fuse is little
beside what blocks save.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from kat.nn.execution import blocks
from kat.nn.execution.layer import PARAMETERS, Layer, product_dtype
from kat.nn.rational import GroupRational
from kat.ops.arguments import are_right
from kat.ops.torch_internals import (
    in_function_transform,
    is_exporting,
    is_patched,
    is_plain_eager,
    refuse_forward_mode,
)

PLAIN = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""
Modules = tuple[nn.Module, Sequence[nn.Module], nn.Linear]
"""A GR-KAN layer: its activation, the dropout and norm before its linear map, and that."""

GRKANHook = Callable[[GroupRational, nn.Linear, Tensor, Tensor], None]

SMALL = 1 << 15
"""Fewer values of x than this are a small call: what Python asks takes longer than F."""

_hooks: OrderedDict[int, GRKANHook] = OrderedDict()


def register_grkan_hook(hook: GRKANHook) -> RemovableHandle:
    """Calls ``hook(activation, linear, x, y)`` whenever a GR-KAN layer y = W F(x) + bias runs.

    Of a gated MLP, x is the gate: y = W (F(x) v) + bias.

    Like ``torch.nn.modules.module.register_module_forward_hook``, it covers all models of the
    process. A fused layer stays fused; a hook on one of its own modules would prevent that.

    Args:
        hook: receives the tensors as part of the autograd graph, and must not change them.

    Returns:
        A handle; its ``remove()`` ends the calls.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.nn import register_grkan_hook
        >>> seen = []
        >>> handle = register_grkan_hook(lambda act, linear, x, y: seen.append(tuple(x.shape)))
        >>> y = kat.GRKANMlp(16, 64)(torch.randn(8, 16))
        >>> seen
        [(8, 16), (8, 64)]
        >>> handle.remove()
    """
    handle = RemovableHandle(_hooks)
    _hooks[handle.id] = hook
    return handle


def has_grkan_hooks() -> bool:
    """Return True if any hook is registered by :func:`register_grkan_hook`."""
    return len(_hooks) > 0  # compiled code guards the length, and not whether there are any


def call_grkan_hooks(activation: Any, linear: nn.Linear, x: Tensor, y: Tensor) -> None:
    """Shows a layer's input and output to all hooks of :func:`register_grkan_hook`."""
    for hook in tuple(_hooks.values()):
        hook(activation, linear, x, y)


def run_mlp(
    x: Tensor, modules: Sequence[Modules], *, fused: bool, keeps_hidden: bool = True
) -> Tensor:
    """The output of GR-KAN layers, by one formula or layer by layer.

    Args:
        x: the input.
        modules: of each layer. Without a rational, an ``nn.Identity`` in its place, a layer is its
            linear map alone.
        fused: use the formula where the modules are no more than that.
        keeps_hidden: keep the inputs of all layers for the backward pass, or x alone, from which it
            then computes the others again.
    """
    if is_small(x, *(linear for _, _, linear in modules)):
        return _layer_by_layer(x, modules, fused=False)
    layers = formulas(x, modules) if fused and not has_grkan_hooks() else None
    if layers is not None:
        return _run_formulas(x, layers, keeps_hidden=keeps_hidden)
    if keeps_hidden or not torch.is_grad_enabled() or in_function_transform() or is_exporting():
        return _layer_by_layer(x, modules, fused)
    y: Tensor = checkpoint(lambda x: _layer_by_layer(x, modules, fused), x, use_reentrant=False)
    return y


def _layer_by_layer(x: Tensor, modules: Sequence[Modules], fused: bool) -> Tensor:
    for layer in modules:
        none = isinstance(layer[0], nn.Identity)
        x = _call_modules(x, layer) if none else run_layer(x, layer, fused=fused)
    return x


def _call_modules(x: Tensor, modules: Modules) -> Tensor:
    activation, between, linear = modules
    y = activation(x)
    for module in between:
        y = y if has_no_effect(module) else module(y)
    output: Tensor = linear(y)
    return output


def run_layer(x: Tensor, modules: Modules, *, fused: bool) -> Tensor:
    """W F(x) + bias, by the formula or the modules, shown to the hooks on all GR-KAN layers."""
    activation, _, linear = modules
    layers = formulas(x, (modules,)) if fused and not is_small(x, linear) else None
    y = _call_modules(x, modules) if layers is None else _run_formulas(x, layers)
    call_grkan_hooks(activation, linear, x, y)
    return y


@contextmanager
def no_small_calls() -> Iterator[None]:
    """Within it no call is small: what is measured on a few images holds for many."""
    global SMALL
    before, SMALL = SMALL, 0
    try:
        yield
    finally:
        SMALL = before


def is_small(x: Tensor, *linears: nn.Linear) -> bool:
    """Return True for a small call on a CPU: the modules are then faster than their formula.

    Without gradients nothing is kept, and the formula is faster in blocks alone.
    """
    if type(x) not in PLAIN or torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    if x.numel() < SMALL:
        return True
    if torch.is_grad_enabled() or not SMALL:
        return False
    widths: list[int] = [getattr(linear, "out_features", 0) for linear in linears]
    return blocks.widest_bytes(x, widths) < blocks.least_bytes()


def formulas(x: Tensor, modules: Sequence[Modules]) -> list[Layer] | None:
    """The layers of which a call of modules is the formula; None where they must be called.

    They must be called where one is patched (hooks, a derived class, a ``forward`` of its own,
    parameters of a tensor subclass), was given a backend by name, or does something between a
    rational and its linear map; where x is no plain tensor (an ``fx`` proxy, say); inside
    ``torch.func`` transforms and in exported programs; and where tensors do not fit together, as
    the modules say what is wrong. So nothing below checks the arguments again.

    Args:
        x: the input.
        modules: of each layer; an activation that is an ``nn.Identity`` is none.
    """
    if type(x) not in PLAIN or not x.dim() or not x.is_floating_point():
        return None
    if in_function_transform() or is_exporting():
        return None
    layers: list[Layer] = []
    width = x.shape[-1]
    for activation, between, linear in modules:
        for module in between:
            if not has_no_effect(module):
                return None
        none = type(activation) is nn.Identity and has_no_effect(activation)
        layer = plain_layer(None if none else activation, linear)
        if layer is None:
            return None
        form, numerator, denominator, weight, _ = layer
        if weight.shape[1] != width or weight.device != x.device or weight.layout != x.layout:
            return None
        f = None if numerator is None or denominator is None else (numerator, denominator)
        if f is not None and not are_right(weight, *f, form):  # the weight is as wide as F(x)
            return None
        layers.append(layer)
        width = weight.shape[0]
    return layers


def plain_layer(activation: nn.Module | None, linear: nn.Linear) -> Layer | None:
    """The formula of a rational, if there is one, and a linear map.

    None if one of them may be more than its formula: it has hooks, is of a derived class, has a
    ``forward`` of its own, a requested backend, or parameters of a tensor subclass.
    """
    if type(linear) is not nn.Linear or is_patched(linear):
        return None
    weight, bias = linear.weight, linear.bias
    if type(weight) not in PLAIN or not (bias is None or type(bias) in PLAIN):
        return None
    if activation is None:
        return Layer("A", None, None, weight, bias)
    coefficients = plain_coefficients(activation)
    if coefficients is None or activation.impl is not None:
        return None
    if activation.num_channels not in (None, weight.shape[1]):
        return None
    return Layer(activation.form, *coefficients, weight, bias)


def plain_coefficients(activation: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Numerator and denominator of a rational of the last dimension that is only its formula.

    None if it has hooks, is of a derived class, has a ``forward`` of its own or coefficients of a
    tensor subclass.
    """
    if (
        type(activation) is not GroupRational
        or activation.channel_dim != -1
        or is_patched(activation)
    ):
        return None
    numerator, denominator = activation.weight_numerator, activation.weight_denominator
    if type(numerator) not in PLAIN or type(denominator) not in PLAIN:
        return None
    return numerator, denominator


def has_no_effect(module: nn.Module) -> bool:
    """Return True if a dropout or norm returns its input, and nothing observes it."""
    if type(module) is nn.Dropout:
        return not (module.training and module.p > 0) and not is_patched(module)
    return type(module) is nn.Identity and not is_patched(module)


def _run_formulas(x: Tensor, layers: Sequence[Layer], *, keeps_hidden: bool = True) -> Tensor:
    """y = W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k, in the dtype of autocast if that is active."""
    recorded = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for layer in layers for t in (x, *layer.tensors)
    )
    dtype = blocks.dtype_if_faster(x, layers, recorded=recorded)
    compiled = torch.compiler.is_compiling() and not torch.is_grad_enabled()
    y: Tensor
    if compiled and blocks.may_be_faster(x, layers):
        forms = [layer.form for layer in layers]
        parameters = [tensor for layer in layers for tensor in layer.tensors]
        y = torch.ops.kat.grkan_mlp.default(x, parameters, forms)
    elif dtype is not None and not recorded:
        y = blocks.forward(x, layers, dtype)
    elif not recorded:
        y = _plain(x, layers)
    elif dtype is not None:
        forms = [layer.form for layer in layers]
        tensors = [tensor for layer in layers for tensor in layer.tensors]
        y = _Layers.apply(x, forms, True, keeps_hidden, *tensors)
    elif keeps_hidden or len(layers) == 1:
        y = x
        for layer in layers:
            y = _Layers.apply(y, [layer.form], False, True, *layer.tensors)
    else:
        y = checkpoint(
            lambda x: _run_formulas(x, layers), x, use_reentrant=False, preserve_rng_state=False
        )
    return y


def _plain(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    for layer in layers:
        x = layer.output(x)
    return x


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
            y = blocks.forward(x, layers, product_dtype(x), hidden)
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


def _mlp(x: Tensor, parameters: Sequence[Tensor | None], forms: Sequence[str]) -> Tensor:
    refuse_forward_mode("rational")
    layers = _layers(forms, parameters)
    dtype = blocks.dtype_if_faster(x, layers, recorded=False)
    return _plain(x, layers) if dtype is None else blocks.forward(x, layers, dtype)


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
