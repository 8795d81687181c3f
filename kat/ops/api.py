"""The public calls: they check their arguments and pick the backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from kat.errors import check_choice
from kat.ops import reference
from kat.ops.arguments import DTYPES, Form, Impl, Rational, check_arguments, check_is_tensor
from kat.ops.operators import KERNELS, Value, dispatched, gradients, run_forward
from kat.ops.torch_internals import is_ordinary


def rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: Form = "A",
    impl: Impl | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """F(x) = P(x) / Q(x), the safe Padé unit, with one function for each group of channels.

        P(x) = a_0 + a_1 x + ... + a_m x^m
        form A:  Q(x) = 1 + sum_j |b_j| |x|^j      (the released kernels and checkpoints)
        form B:  Q(x) = 1 + |sum_j b_j x^j|        (the equation printed in the paper)

    The C channels are divided into G contiguous groups of C / G channels. A coefficient tensor has
    G rows, or one row that all groups share; G is the larger of the two row counts.

    Args:
        x: (..., C), float16, bfloat16, float32 or float64. The arithmetic is in float64 for
            float64, and in float32 for all other dtypes.
        numerator: (1 or G, m + 1) with m >= 1, a_0 first, any floating dtype.
        denominator: (1 or G, n) with n >= 0, b_1 first, any floating dtype.
        v: of x's shape and dtype; the result is then F(x) v, see :func:`kat.gated_rational`.
        form: ``"A"`` or ``"B"``.
        impl: the backend. None selects the kernel of x's device, or the reference if there is no
            kernel, inside ``torch.func`` transforms and in forward-mode AD. A name selects that
            backend or raises: ``"reference"`` is plain PyTorch (any order of derivative,
            ``torch.func``), ``"cpu"`` the C++ kernel, ``"triton"`` the GPU kernels. ONNX graphs
            get a dozen plain operations, whatever ``impl`` is.
        dtype: of the result; x's by default. The CPU kernel rounds to x's dtype first.

    Returns:
        F(x), with x's shape. Differentiable with respect to x, the coefficients and v.

    Raises:
        ValueError: shapes that do not fit together, an unknown form or backend, or a backend that
            does not run on x's device.
        RuntimeError: a backend requested by name is unavailable, or does not work inside a
            ``torch.func`` transform; the message gives the reason.
        TypeError: an argument is not a tensor, not floating point, or not dense.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer, section 4, arXiv 2409.10594; Molina,
    Schramowski and Kersting, Padé Activation Units, arXiv 1907.06732.

    Examples:
        >>> import torch
        >>> import kat
        >>> x = torch.randn(2, 197, 192)
        >>> identity = torch.tensor([[0., 1., 0., 0., 0., 0.]])  # a_1 = 1: P(x) = x
        >>> y = kat.rational(x, identity, torch.zeros(8, 4))  # Q = 1, in 8 groups
        >>> torch.equal(x, y)
        True
    """
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)
    f = Rational(numerator, denominator, form)
    if is_ordinary(x, numerator, denominator, v):
        check_arguments(f, x, v)
        if impl is None and x.device.type in KERNELS:
            if not torch.is_grad_enabled():
                return run_forward(f, x, v, dtype=dtype)
            y: Tensor = Value.apply(x, numerator, denominator, v, form, dtype, None)
            return y
    else:
        tensors = (x, numerator, denominator, v)
        proxy: Any = next((tensor for tensor in tensors if isinstance(tensor, fx.Proxy)), None)
        if proxy is not None:  # one call, into which torch.fx does not look
            options = {"form": form, "impl": impl, "dtype": dtype}
            call = proxy.tracer.create_proxy("call_function", rational, tensors, options)
            node: Tensor = call
            return node
        check_is_tensor("x", x)
        check_is_tensor("numerator", numerator)
        check_is_tensor("denominator", denominator)
        if v is not None:
            check_is_tensor("v", v)
        check_arguments(f, x, v)
    return dispatched(f, x, v, dtype=dtype, impl=impl)


def gated_rational(
    x: Tensor,
    v: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    *,
    form: Form = "A",
    impl: Impl | None = None,
) -> Tensor:
    """F(x) v, elementwise: the gate of a gated MLP, with F as in :func:`kat.rational`.

    x and v may be the two halves of one tensor, ``h.chunk(2, dim=-1)``: they are not copied. Only x
    and v are stored for the backward pass.

    Args:
        x: (..., C), the input of F.
        v: of x's shape and dtype.
        numerator, denominator, form, impl: as in :func:`kat.rational`.

    Returns:
        y, with x's shape and dtype. Differentiable with respect to all four tensors.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`kat.rational`, and v not like x.

    Examples:
        >>> import torch
        >>> import kat
        >>> x, v = torch.randn(4, 32).chunk(2, dim=-1)
        >>> square = torch.tensor([[0.0, 0.0, 1.0]])
        >>> y = kat.gated_rational(x, v, square, torch.zeros(8, 2))
        >>> torch.allclose(y, x**2 * v)
        True
    """
    return rational(x, numerator, denominator, v, form=form, impl=impl)


def warmup(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    form: Form = "A",
    dtype: torch.dtype | None = None,
) -> None:
    """Compile the GPU kernels for such arguments, forward and backward, by one call of each.

    Call it before the capture of a CUDA graph, in which kernels cannot be compiled, with tensors of
    the same dtypes, layouts and alignment to 16 bytes.

    Args:
        x, numerator, denominator, form: as in :func:`kat.rational`.
        v: as in :func:`kat.gated_rational`; None for ``kat.rational``.
        dtype: of the result; under autocast a GR-KAN layer takes autocast's.

    Raises:
        ValueError, TypeError: as these functions.

    Examples:
        >>> import torch
        >>> import kat
        >>> layer = kat.GroupRational()
        >>> kat.ops.warmup(torch.randn(8, 64), layer.weight_numerator, layer.weight_denominator)
    """
    f = Rational(numerator, denominator, form)
    check_arguments(f, x, v)
    with torch.no_grad():
        y = run_forward(f, x, v, dtype=dtype)
        for coefficients in (True, False):
            gradients(f, y, x, v, coefficients=coefficients)


def decompositions() -> dict[Any, Callable[..., Tensor]]:
    """Return the decomposition of F(x), for ``ExportedProgram.run_decompositions``.

    A program of ``torch.export`` holds F(x) and F(x) v as the operator ``kat::rational``, which
    runs where kat is imported. Other runtimes and exporters know PyTorch's own operations alone.
    There powers of |x| overflow from about 1e7 on, in float32 at degree 5.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 64), kat.GroupRational())
        >>> program = torch.export.export(model, (torch.randn(1, 16),))
        >>> plain = program.run_decompositions(kat.ops.decompositions())
        >>> any("kat" in str(node.target) for node in plain.graph.nodes)
        False
    """
    return {torch.ops.kat.rational.default: _decomposed}


def _decomposed(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    v: Tensor | None = None,
    *,
    form: str = "A",
    dtype: torch.dtype | None = None,
) -> Tensor:
    return reference.forward(Rational(numerator, denominator, form), x, v).to(dtype or x.dtype)
