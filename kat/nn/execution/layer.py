"""A GR-KAN layer as a formula, W F(x) + bias: of which modules it is one, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.nn.rational import GroupRational
from kat.ops import Form
from kat.ops.arguments import are_right
from kat.ops.operators import gradients, value
from kat.ops.torch_internals import in_function_transform, is_exporting, is_patched

PLAIN = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""


class Layer(NamedTuple):
    """W F(x) + bias; without coefficients W x + bias."""

    form: Form
    numerator: Tensor | None
    denominator: Tensor | None
    weight: Tensor
    bias: Tensor | None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters."""
        tensors: tuple[Tensor | None, ...] = self[1:]
        return tensors

    def value(self, x: Tensor) -> Tensor:
        """F(x)."""
        if self.numerator is None or self.denominator is None:
            return x
        return value(x, self.numerator, self.denominator, self.form)

    def output(self, x: Tensor) -> Tensor:
        """W F(x) + bias."""
        return functional.linear(self.value(x), self.weight, self.bias)

    def gradients(self, grad: Tensor, x: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
        """With the output gradient G: dF = G W, dW = G^T F(x), dbias = sum G, and those of F.

        What no gradient needs is not computed: frozen weights cost no F(x) and no product. The
        products are in G's dtype, which autocast chose in the forward pass.

        Args:
            grad: G, (..., d_out).
            x: (..., d_in).
            needs: for x and each of :attr:`tensors`, True if it needs its gradient.

        Returns:
            Those gradients, None where none is needed; the bias has its in G's dtype.
        """
        needs_weight, needs_bias = needs[3:]
        found: list[Tensor | None] = [None] * 3
        y = None
        if any(needs[:3]):
            found, y = self._value_gradients(grad @ self.weight.to(grad.dtype), x, needs_weight)
        elif needs_weight:
            y = self.value(x)
        return [*found, *linear_gradients(grad, y, self.weight.dtype, needs_bias)]

    def _value_gradients(
        self, grad: Tensor, x: Tensor, needs_value: bool
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """The gradients of x and the coefficients, and F(x) if that is needed."""
        if self.numerator is None or self.denominator is None:
            return [grad.to(x.dtype), None, None], x if needs_value else None
        inputs = (grad, x, self.numerator, self.denominator, self.form)
        dx, da, db, *y = gradients(*inputs, recompute=needs_value)
        return [dx, da, db], y[0] if y else None


PARAMETERS = len(Layer._fields) - 1
"""The tensors of a layer."""


def linear_gradients(
    grad: Tensor, y: Tensor | None, dtype: torch.dtype, needs_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dW = G^T y, in the weight's dtype, None without y, and dbias = sum G, if that is needed."""
    rows = grad.reshape(-1, grad.shape[-1])
    d_weight = None
    if y is not None:
        d_weight = (rows.T @ y.reshape(-1, y.shape[-1]).to(grad.dtype)).to(dtype)
    return d_weight, rows.sum(0) if needs_bias else None


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
    drops = type(module) is nn.Dropout and module.training and module.p > 0
    return type(module) in (nn.Identity, nn.Dropout) and not drops and not is_patched(module)


def formulas(
    x: Tensor,
    modules: Sequence[tuple[nn.Module, nn.Linear]],
    between: Sequence[nn.Module] = (),
) -> list[Layer] | None:
    """The layers of which a call of modules is the formula; None where they must be called.

    They must be called where one is patched (hooks, a derived class, a ``forward`` of its own,
    parameters of a tensor subclass), was given a backend by name, or does something between a
    rational and its linear map; where x is no plain tensor (an ``fx`` proxy, say); inside
    ``torch.func`` transforms and in exported programs; and where tensors do not fit together, as
    the modules say what is wrong. So nothing below checks the arguments again.

    Args:
        x: the input.
        modules: activations, each with the linear map after it; an ``nn.Identity`` is none.
        between: other modules of the call: dropouts and norms.
    """
    if type(x) not in PLAIN or not x.dim() or not x.is_floating_point():
        return None
    if in_function_transform() or is_exporting() or not all(map(has_no_effect, between)):
        return None
    layers: list[Layer] = []
    width = x.shape[-1]
    for activation, linear in modules:
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
