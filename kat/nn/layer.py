"""A GR-KAN layer as a formula, W F(x) + bias: of which modules it is one, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from kat.nn.rational import GroupRational
from kat.ops import Form, rational
from kat.ops.dispatch import rational_backward, rational_backward_recompute
from kat.ops.torch_internals import is_patched

PLAIN = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""


class Layer(NamedTuple):
    """W F(x) + bias; without coefficients W x + bias."""

    form: Form
    numerator: Tensor | None
    denominator: Tensor | None
    weight: Tensor
    bias: Tensor | None

    def value(self, x: Tensor) -> Tensor:
        """F(x)."""
        if self.numerator is None or self.denominator is None:
            return x
        return rational(x, self.numerator, self.denominator, form=self.form)

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
            needs: whether x, numerator, denominator, weight and bias need their gradients.

        Returns:
            Those gradients, None where none is needed; that of the bias in G's dtype.
        """
        *of_value, for_weight, for_bias = needs
        of_x: list[Tensor | None] = [None, None, None]
        y = None
        if any(of_value):
            of_x, y = self._gradients_of_value(grad @ self.weight.to(grad.dtype), x, for_weight)
        elif for_weight:
            y = self.value(x)
        rows = grad.reshape(-1, grad.shape[-1])
        d_weight = d_bias = None
        if y is not None:
            d_weight = (rows.T @ y.reshape(-1, y.shape[-1]).to(grad.dtype)).to(self.weight.dtype)
        if for_bias:
            d_bias = rows.sum(0)
        return [*of_x, d_weight, d_bias]

    def _gradients_of_value(
        self, grad: Tensor, x: Tensor, for_weight: bool
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """Those of x, numerator and denominator, and F(x) if the weight needs it."""
        if self.numerator is None or self.denominator is None:
            return [grad.to(x.dtype), None, None], x if for_weight else None
        inputs = (x, self.numerator, self.denominator, self.form)
        if for_weight:
            *found, y = rational_backward_recompute(grad, *inputs)
            return [*found], y
        return [*rational_backward(grad, *inputs)], None


def plain_layer(activation: GroupRational | None, linear: nn.Linear) -> Layer | None:
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
    return Layer(activation.form, *coefficients, weight, bias)


def plain_coefficients(activation: GroupRational) -> tuple[Tensor, Tensor] | None:
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
    """Whether a dropout or norm returns its input, and nothing observes it."""
    drops = type(module) is nn.Dropout and module.training and module.p > 0
    return type(module) in (nn.Identity, nn.Dropout) and not drops and not is_patched(module)
