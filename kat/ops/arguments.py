"""The arguments of the rational function: forms, dtypes and shapes."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from kat.errors import check_choice

Form = Literal["A", "B"]
"""The form of the denominator: A, 1 + sum |b_j||x|^j, or B, 1 + |sum b_j x^j|."""
Impl = Literal["reference", "cpu", "triton"]
"""The backends that ``impl=`` takes, see :func:`kat.rational`."""
IMPLS: tuple[Impl | None, ...] = (None, *get_args(Impl))
FORMS: tuple[Form, ...] = get_args(Form)
"""Both forms of :data:`Form`."""


DTYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
"""The dtypes of x and of the coefficients."""


class Rational(NamedTuple):
    """F = P / Q, one function for each group of channels: its coefficients and its form.

    An autograd function takes the members one by one: it would not see tensors inside a tuple.
    """

    numerator: Tensor
    """a of P, (1 or G, m + 1), a_0 first."""
    denominator: Tensor
    """b of Q, (1 or G, n), b_1 first."""
    form: str = "A"

    @property
    def degree(self) -> tuple[int, int]:
        """(m, n)."""
        return self.numerator.shape[1] - 1, self.denominator.shape[1]

    @property
    def groups(self) -> int:
        """The number of groups; a tensor of one row is shared by all."""
        return max(self.numerator.shape[0], self.denominator.shape[0])


def check_form(form: str) -> None:
    """Check the form of the denominator.

    Raises:
        InputError: it is not one of :data:`FORMS`.
    """
    check_choice("form", form, FORMS)


def check_is_tensor(name: str, value: Any) -> None:
    """Check an argument that may be a list, an array of NumPy or a ``DTensor``.

    Raises:
        TypeError: it is no tensor, or one that is spread over processes.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {type(value).__name__}: convert it by torch.as_tensor"
        )
    if hasattr(value, "to_local"):
        raise TypeError(
            f"{name} is a DTensor, which kat.rational does not take: pass x.to_local(), or set"
            " use_local_output=True in the parallel style before; pass coefficients.full_tensor()"
        )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic: float64 for float64 tensors, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_arguments(f: Rational, x: Tensor, v: Tensor | None = None) -> None:
    """Check the arguments of :func:`kat.rational`, and with v of :func:`kat.gated_rational`.

    Raises:
        ValueError: an unknown form, shapes that do not fit together, tensors on several devices, v
            not like x.
        TypeError: a tensor that is not floating point, or not dense.
    """
    numerator, denominator, form = f
    check_form(form)
    for name, tensor in (("x", x), ("numerator", numerator), ("denominator", denominator)):
        if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
            got = f"{tensor.layout}, {tensor.dtype}"
            raise TypeError(f"{name} must be dense and floating point, 16 to 64 bits, got {got}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, but x is on {x.device}")
    groups = _count_groups(f)
    if not groups or not x.dim():
        raise ValueError(
            "x must be (..., C), numerator (1 or G, m + 1) with degree m >= 1, and denominator"
            f" (1 or G, n), with G groups that divide C channels; got shapes {tuple(x.shape)},"
            f" {tuple(numerator.shape)} and {tuple(denominator.shape)}"
        )
    width = x.shape[-1]
    if width % groups:
        raise ValueError(
            f"{width} channels are not divisible by num_groups={groups}, but by {divisors(width)}"
        )
    if v is not None and (v.shape, v.dtype, v.layout, v.device) != (
        (x.shape, x.dtype, x.layout, x.device)
    ):
        raise ValueError(
            f"v must have x's shape {tuple(x.shape)}, be {x.dtype}, dense and on {x.device}, got"
            f" {tuple(v.shape)}, {v.dtype}, {v.layout} and {v.device}"
        )


def _count_groups(f: Rational) -> int:
    """Return the number of groups; 0 if the shapes of the coefficients do not fit together."""
    if not f.numerator.dim() == f.denominator.dim() == 2:
        return 0
    rows, columns = f.numerator.shape
    groups = f.groups
    fits = columns > 1 and rows in (1, groups) and f.denominator.shape[0] in (1, groups)
    return groups if fits else 0


def divisors(width: int) -> str:
    """Return the numbers of groups, up to 64, that divide a width, for a message."""
    return ", ".join(str(count) for count in range(1, 65) if width % count == 0)
