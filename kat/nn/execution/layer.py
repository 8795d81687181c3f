"""A GR-KAN layer as a formula, W F(x) + bias: of which modules it is one, and its gradients.

Where a LayerNorm stands before it, the formula is W F(LayerNorm(x)) + bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.nn.rational import GroupRational
from kat.ops import Form, layer_norm_rational, rational
from kat.ops.dispatch import rational_backward, rational_backward_recompute
from kat.ops.norm import (
    eager,
    has_kernel,
    layer_norm_rational_backward,
    layer_norm_rational_backward_recompute,
)
from kat.ops.torch_internals import in_function_transform, is_patched, is_plain_eager

PLAIN = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""
LEAST_BYTES = 1 << 19
"""The size of x from which a norm joins at inference on a CPU: of less, one pass saves less than
these checks take in Python (tens of microseconds, where products have just emptied the caches).
In training it saves memory at any size."""


class Norm(NamedTuple):
    """The LayerNorm before a rational, one function with it: F(LayerNorm(x))."""

    weight: Tensor
    bias: Tensor
    eps: float

    def value(self, x: Tensor, activation: GroupRational) -> Tensor:
        """F(LayerNorm(x)), for what :func:`joined_norm` has found to fit."""
        coefficients = activation.weight_numerator, activation.weight_denominator
        return eager(x, self.weight, self.bias, *coefficients, self.eps, activation.form)


class Layer(NamedTuple):
    """W F(x) + bias; without coefficients W x + bias; with a norm W F(LayerNorm(x)) + bias."""

    form: Form
    numerator: Tensor | None
    denominator: Tensor | None
    weight: Tensor
    bias: Tensor | None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None
    eps: float = 0.0

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """The parameters."""
        tensors: tuple[Tensor | None, ...] = self[1:-1]
        return tensors

    def with_norm(self, norm: Norm | None) -> Layer:
        """The layer after a norm."""
        if norm is None:
            return self
        return self._replace(norm_weight=norm.weight, norm_bias=norm.bias, eps=norm.eps)

    def value(self, x: Tensor) -> Tensor:
        """F(x), or F(LayerNorm(x))."""
        if self.numerator is None or self.denominator is None:
            return x
        coefficients = self.numerator, self.denominator
        if self.norm_weight is None or self.norm_bias is None:
            return rational(x, *coefficients, form=self.form)
        return layer_norm_rational(
            x, self.norm_weight, self.norm_bias, *coefficients, eps=self.eps, form=self.form
        )

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
            needs: whether x and each of :attr:`tensors` need their gradients.

        Returns:
            Those gradients, None where none is needed; that of the bias in G's dtype.
        """
        for_x, for_a, for_b, for_weight, for_bias, *for_norm = needs
        of_value = (for_x, for_a, for_b, *for_norm)
        found: list[Tensor | None] = [None] * len(of_value)
        y = None
        if any(of_value):
            found, y = self._gradients_of_value(grad @ self.weight.to(grad.dtype), x, for_weight)
        elif for_weight:
            y = self.value(x)
        return [*found[:3], *linear_gradients(grad, y, self.weight.dtype, for_bias), *found[3:]]

    def _gradients_of_value(
        self, grad: Tensor, x: Tensor, for_weight: bool
    ) -> tuple[list[Tensor | None], Tensor | None]:
        """Those of x, the coefficients and the norm's parameters; F(x) if the weight needs it."""
        if self.numerator is None or self.denominator is None:
            return [grad.to(x.dtype), *[None] * 4], x if for_weight else None
        inputs: tuple[Any, ...] = (x, self.numerator, self.denominator, self.form)
        backward: Any = rational_backward_recompute if for_weight else rational_backward
        if self.norm_weight is not None:
            inputs = (x, self.norm_weight, self.norm_bias, *inputs[1:3], self.eps, self.form)
            backward = (
                layer_norm_rational_backward_recompute
                if for_weight
                else layer_norm_rational_backward
            )
        found = list(backward(grad, *inputs))
        y = found.pop() if for_weight else None
        if self.norm_weight is None:
            return [*found, None, None], y
        dx, of_norm_weight, of_norm_bias, da, db = found
        return [dx, da, db, of_norm_weight, of_norm_bias], y


def linear_gradients(
    grad: Tensor, y: Tensor | None, dtype: torch.dtype, for_bias: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dW = G^T y, in the weight's dtype, None without y, and dbias = sum G, if that is needed."""
    rows = grad.reshape(-1, grad.shape[-1])
    d_weight = None
    if y is not None:
        d_weight = (rows.T @ y.reshape(-1, y.shape[-1]).to(grad.dtype)).to(dtype)
    return d_weight, rows.sum(0) if for_bias else None


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
    if activation.num_channels not in (None, weight.shape[1]):  # called, it says what is wrong
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


def joined_norm(norm: nn.Module, activation: nn.Module, x: Tensor) -> Norm | None:
    """The norm as a part of ``activation(norm(x))``, where a kernel computes both in one pass.

    None where the modules must be called: where one is more than its formula (see
    :func:`plain_coefficients`), where something observes or rewrites operations or compiles them,
    where autocast gives them different dtypes, and where there is no kernel; at inference on
    a CPU also below :data:`LEAST_BYTES`.
    """
    if not may_join(x):
        return None
    if not _is_layer_norm(norm) or not isinstance(activation, GroupRational):
        return None
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    coefficients = plain_coefficients(activation)
    if coefficients is None or type(weight) not in PLAIN or type(bias) not in PLAIN:
        return None
    if activation.impl or not weight.dtype == bias.dtype == x.dtype:
        return None
    if x.dtype.itemsize < 4 and torch.is_autocast_enabled(x.device.type):
        return None
    if not is_plain_eager(x, weight, bias, *coefficients) or in_function_transform():
        return None
    if has_kernel(x, weight, bias, *coefficients, activation.form):
        return Norm(weight, bias, eps)
    return None


def may_join(x: Tensor) -> bool:
    """Whether x, as far as it alone decides, is an input for which :func:`joined_norm` may pay."""
    if torch.compiler.is_compiling() or type(x) not in PLAIN:
        return False
    return torch.is_grad_enabled() or x.device.type != "cpu" or x.nbytes >= LEAST_BYTES


def _is_layer_norm(norm: Any) -> TypeGuard[nn.LayerNorm]:
    """Whether a module is torch's LayerNorm, or timm's where that does the same."""
    kind = type(norm)
    timms = (kind.__module__, kind.__qualname__) == ("timm.layers.norm", "LayerNorm")
    if kind is not nn.LayerNorm and not (timms and not norm._fast_norm):
        return False
    return not is_patched(norm)


def normalized(norm: nn.Module | None, x: Tensor) -> Tensor:
    """``norm(x)``; x where there is no norm. A program of torch.fx calls it."""
    y: Tensor = x if norm is None else norm(x)
    return y


def effective(*modules: nn.Module) -> list[nn.Module]:
    """Those of some dropouts and norms that change their input, or that something observes."""
    return [module for module in modules if not has_no_effect(module)]


def has_no_effect(module: nn.Module) -> bool:
    """Whether a dropout or norm returns its input, and nothing observes it."""
    drops = type(module) is nn.Dropout and module.training and module.p > 0
    return type(module) in (nn.Identity, nn.Dropout) and not drops and not is_patched(module)
