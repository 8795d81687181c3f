"""The residual form of a rational: SiLU plus a rational that starts at zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.nn.rational import GroupRational, rationals


class ResidualRational(GroupRational):
    """F(x) = x s(x) + R(x): SiLU, s the logistic function, and a rational R that starts at zero.

    F is SiLU exactly at the start, as the activation of a KAN edge is a SiLU and a spline (Liu et
    al., KAN, arXiv 2404.19756, section 2.3). Weight decay of the coefficients pulls F towards SiLU,
    where that of a plain rational pulls it towards zero. It takes one more pass over x than a
    :class:`GroupRational`, and GR-KAN layers do not fuse it.

    Arguments, weights and shapes are those of :class:`GroupRational`. ``init`` gives the initial
    denominator; the coefficients are those of R.

    Examples:
        >>> import torch
        >>> import kat
        >>> act = kat.nn.ResidualRational(8)
        >>> x = torch.randn(4, 64)
        >>> torch.equal(act(x), torch.nn.functional.silu(x))
        True
    """

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Resets all groups to SiLU."""
        super().reset_parameters()
        self.weight_numerator.zero_()

    def functions(self, x: Tensor) -> Tensor:
        """As those of :class:`GroupRational`."""
        return super().functions(x) + self.initial_functions(x)

    def initial_functions(self, x: Tensor) -> Tensor:
        """SiLU at the points x (k,), in float64: (1, k)."""
        return functional.silu(x.cpu().double())[None]

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with x's shape and dtype."""
        y: Tensor = functional.silu(x) + super().forward(x)
        return y


def make_residual_(model: nn.Module) -> None:
    """Gives the residual form to every rational of a new model that starts as Swish.

    Args:
        model: is changed in place. Its linear maps stay as they were drawn.

    Raises:
        ValueError: no rational of the model starts as Swish, or the model is a rational itself.

    Examples:
        >>> import kat
        >>> mlp = kat.GatedGRKANMlp(16, 64)
        >>> kat.nn.make_residual_(mlp)
        >>> type(mlp.act).__name__
        'ResidualRational'
    """
    found = [r for r in rationals(model).values() if r.init in ("swish", "silu")]
    if not found or model in found:
        raise ValueError(
            "the residual form is of the rationals inside a model that start as Swish, and there is"
            " none: make a ResidualRational, or give act_init='swish'"
        )
    made = {rational: _residual(rational) for rational in found}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in made:
            model.set_submodule(name, made[module])


def _residual(rational: GroupRational) -> ResidualRational:
    coefficients = rational.weight_numerator
    return ResidualRational(
        rational.num_groups,
        rational.degree,
        rational.init,
        rational.form,
        rational.share,
        rational.channel_dim,
        num_channels=rational.num_channels,
        impl=rational.impl,
        device=coefficients.device,
        dtype=coefficients.dtype,
    )
