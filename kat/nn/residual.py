"""The residual form of a rational: SiLU plus a rational that starts at zero."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from kat.nn.rational import GroupRational, rationals


class ResidualRational(nn.Module):
    """F(x) = x s(x) + R(x): SiLU, s the logistic function, and a rational R that starts at zero.

    F is SiLU exactly at the start, as the activation of a KAN edge is a SiLU and a spline (Liu et
    al., KAN, arXiv 2404.19756, section 2.3). Weight decay of the coefficients pulls F towards SiLU,
    where that of a plain rational pulls it towards zero. It takes one more pass over x than a
    :class:`GroupRational`, and GR-KAN layers do not fuse it.

    Args:
        rational: becomes R: it keeps its groups, degrees, form and denominator, and its numerator
            is set to zero, also whenever it is reset.

    Examples:
        >>> import torch
        >>> import kat
        >>> act = kat.nn.ResidualRational(kat.GroupRational(8))
        >>> x = torch.randn(4, 64)
        >>> torch.equal(act(x), torch.nn.functional.silu(x))
        True
    """

    def __init__(self, rational: GroupRational) -> None:
        super().__init__()
        initial = rational.initial_coefficients()
        rational.init = replace(initial, numerator=(0.0,) * len(initial.numerator))
        rational.reset_parameters()
        self.rational = rational

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with x's shape and dtype."""
        y: Tensor = functional.silu(x) + self.rational(x)
        return y


def make_residual_(model: nn.Module) -> None:
    """Gives the residual form to every rational of a new model that starts as Swish.

    Args:
        model: is changed in place. Its linear maps stay as they were drawn.

    Raises:
        ValueError: no rational of the model starts as Swish.

    Examples:
        >>> import kat
        >>> mlp = kat.GatedGRKANMlp(16, 64)
        >>> kat.nn.make_residual_(mlp)
        >>> type(mlp.act).__name__
        'ResidualRational'
    """
    found = {name: r for name, r in rationals(model).items() if r.init in ("swish", "silu")}
    if not found:
        raise ValueError("no rational of the model starts as Swish: the residual form adds to SiLU")
    for name, rational in found.items():
        model.set_submodule(name, ResidualRational(rational))
