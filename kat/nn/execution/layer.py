"""A GR-KAN layer as a formula, W F(x) + bias, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kat.ops import Form
from kat.ops.operators import gradients, value


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

    def value(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """F(x) in the dtype of the product that follows."""
        if self.numerator is None or self.denominator is None:
            return x
        return value(x, self.numerator, self.denominator, self.form, dtype=dtype)

    def output(self, x: Tensor) -> Tensor:
        """W F(x) + bias."""
        return functional.linear(self.value(x, product_dtype(x)), self.weight, self.bias)

    def gradients(self, grad: Tensor, x: Tensor, needs: Sequence[bool]) -> list[Tensor | None]:
        """The gradients for the output's G: dF = G W, dW = G^T F(x), dbias = sum G, and of F.

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
            y = self.value(x, grad.dtype)
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


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of linear maps of x: autocast's where that is active and x is not in float64."""
    device, dtype = x.device.type, x.dtype
    plain = x.is_meta or dtype == torch.float64
    autocasts = not plain and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocasts else dtype


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
