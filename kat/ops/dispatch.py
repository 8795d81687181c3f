"""The operators ``kat::rational*``: their backends, and the calls that pick one."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor

from kat.ops import derivative, reference
from kat.ops.cpu import backend as cpu
from kat.ops.operators import (
    Pass,
    define_gradients,
    define_passes,
    define_second_order,
    run_backward,
    run_unrecorded,
)
from kat.ops.torch_internals import in_function_transform
from kat.ops.triton import backend as triton

Gradients = tuple[Tensor, Tensor, Tensor]
"""Those of x, numerator and denominator."""


class Backend(Protocol):
    """What the module of a backend defines. All tensors are on its device."""

    DEVICE_TYPE: str

    def supports(self, x: Tensor, numerator: Tensor, denominator: Tensor) -> bool:
        """Whether the kernels take these arguments. Warns once if the backend is unavailable."""

    def forward(self, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        """F(x), with the strides of ``torch.empty_like(x)``."""

    def backward(
        self, grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
    ) -> Gradients:
        """The gradients of ``sum(grad * F(x))``."""

    def backward_recompute(
        self, grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As ``backward``, and F(x) from the same pass over memory."""

    def rational(self, x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
        """F(x), differentiable, by this backend, or an error that says why it is unavailable."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "triton": triton}
"""By the name that ``impl=`` takes. A new backend is one entry here."""


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    return torch.empty_like(x).copy_(reference.forward(x, numerator, denominator, form))


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    dx, da, db = reference.backward(grad, x, numerator, denominator, form)
    return torch.empty_like(x).copy_(dx), da.contiguous(), db.contiguous()


def _backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = _backward(grad, x, numerator, denominator, form)
    return *gradients, _forward(x, numerator, denominator, form)


def _fake_forward(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    return torch.empty_like(x)


def _fake_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(x),
        torch.empty_like(numerator, memory_format=contiguous),
        torch.empty_like(denominator, memory_format=contiguous),
    )


def _fake_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = _fake_backward(grad, x, numerator, denominator, form)
    return *gradients, torch.empty_like(x)


_INPUTS = "Tensor x, Tensor numerator, Tensor denominator, str form"
define_passes(
    "rational",
    _INPUTS,
    3,
    forward=Pass(attrgetter("forward"), _forward, _fake_forward),
    backward=Pass(attrgetter("backward"), _backward, _fake_backward),
    recompute=Pass(attrgetter("backward_recompute"), _backward_recompute, _fake_backward_recompute),
    backends=BACKENDS.values(),
)


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, form: str) -> Tensor:
    """F(x), differentiable, by the operator or, under a transform, the reference; no checks."""
    if in_function_transform():
        return reference.rational(x, numerator, denominator, form)
    return torch.ops.kat.rational.default(x, numerator, denominator, form)


def rational_backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> Gradients:
    """The gradients of ``sum(grad * F(x))`` for x, numerator and denominator, differentiable."""
    if torch.is_grad_enabled() and derivative.has_kernel(grad, x, numerator, denominator):
        return derivative.gradients(grad, x, numerator, denominator, form)
    tensors = (grad, x, numerator, denominator)
    dx, da, db = run_backward("rational_backward", reference.backward, tensors, (form,))
    return dx, da, db


def rational_backward_recompute(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, form: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`rational_backward`, and F(x): in one pass, or two if they are to be differentiated.

    For a backward pass that needs F(x) where the forward pass has kept x alone.
    """
    if not torch.is_grad_enabled() and not in_function_transform():
        tensors = (grad, x, numerator, denominator)
        dx, da, db, y = run_unrecorded("rational_backward_recompute", tensors, (form,))
        return dx, da, db, y
    gradients = rational_backward(grad, x, numerator, denominator, form)
    return *gradients, rational(x, numerator, denominator, form)


def _first_order(ctx: Any, grad: Tensor) -> Gradients:
    return rational_backward(grad, *ctx.saved_tensors, *ctx.options)


define_gradients("rational", _first_order)
define_second_order("rational_backward", reference.backward)
