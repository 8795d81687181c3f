"""Whether modules are just their formula, which other code may then compute in their place."""

from __future__ import annotations

from torch import Tensor, nn

from kat.nn.rational import GroupRational
from kat.ops.torch_internals import is_patched

PLAIN = (Tensor, nn.Parameter)
"""Tensors whose class changes no operation."""


def is_plain(activation: GroupRational | None, linear: nn.Linear) -> bool:
    """Whether a rational, if there is one, and a linear map are just their formula.

    They are not if they have hooks, are of a derived class, have a ``forward`` of their own, a
    requested backend, or parameters of a tensor subclass.
    """
    return _is_plain_linear(linear) and (activation is None or _is_plain_rational(activation))


def _is_plain_rational(activation: GroupRational) -> bool:
    return (
        type(activation) is GroupRational
        and activation.impl is None
        and activation.channel_dim == -1
        and not is_patched(activation)
        and type(activation.weight_numerator) in PLAIN
        and type(activation.weight_denominator) in PLAIN
    )


def _is_plain_linear(linear: nn.Linear) -> bool:
    return (
        type(linear) is nn.Linear
        and not is_patched(linear)
        and type(linear.weight) in PLAIN
        and (linear.bias is None or type(linear.bias) in PLAIN)
    )
