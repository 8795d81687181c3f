"""The arms of normalized_study.py: rationals and GELU of the normalized input, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import layers
import torch
from torch import Tensor, nn
from torch.nn import functional

import kat

CANDIDATES = ("act2", "act2_tails", "tails", "both", "token")
CANDIDATE = "act2"
"""The arm that part 1 chose."""
CONTROLS = ("act2_frozen", "gelu_norm")
EPS = 1e-6


class NormalizedRational(nn.Module):
    """h = s F(x / s) with F(x) = (P(x) + sum_i c_i |x|^i) / (1 + sum_j |b_j| |x|^j).

    For a group of zeros the output is 1e-3 F(0), with finite gradients. A NaN makes its whole group
    NaN.

    Args:
        act: the rational whose groups and coefficients it starts with, of form A.
        over: the channels of s: ``"group"``, ``"token"``, or None, s = 1.
        tails: whether c is learned.
    """

    def __init__(self, act: kat.GroupRational, over: str | None, *, tails: bool = False) -> None:
        super().__init__()
        self.weight_numerator = nn.Parameter(act.weight_numerator.detach().clone())
        self.weight_denominator = nn.Parameter(act.weight_denominator.detach().clone())
        self.groups, self.over = len(self.weight_denominator), over
        self.weight_tails = nn.Parameter(torch.zeros(self.groups, 5)) if tails else None

    def no_weight_decay(self) -> set[str]:
        """The names of the coefficients."""
        return {name for name, _ in self.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        """x (..., channels) to the same shape."""
        grouped = x.unflatten(-1, (self.groups, -1))
        if self.over is None:
            return self._f(grouped).flatten(-2)
        s = rms(grouped, -1 if self.over == "group" else (-2, -1))
        return (s * self._f(grouped / s)).flatten(-2)

    def _f(self, x: Tensor) -> Tensor:
        top, size = polynomial(x, self.weight_numerator.expand(self.groups, -1)), x.abs()
        if self.weight_tails is not None:
            top = top + size * polynomial(size, self.weight_tails)
        b = self.weight_denominator
        sizes = torch.where(b < 0, -b, b)  # of slope 1 at b = 0, where torch's abs has 0
        return top / (1 + size * polynomial(size, sizes))


class NormalizedGELU(nn.Module):
    """h = s GELU(x / s), s over groups of channels."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., channels) to the same shape."""
        grouped = x.unflatten(-1, (layers.GROUPS, -1))
        s = rms(grouped, -1)
        return (s * functional.gelu(grouped / s)).flatten(-2)


def rms(x: Tensor, dim: Any) -> Tensor:
    """sqrt(mean(x^2) + 1e-6), the dimensions kept."""
    return (x.square().mean(dim, keepdim=True) + EPS).sqrt()


def polynomial(x: Tensor, coefficients: Tensor) -> Tensor:
    """c_0 + c_1 x + ... by Horner's scheme: x (..., groups, channels), coefficients (groups, n)."""
    *rest, last = coefficients[..., None].unbind(-2)
    value = last.expand_as(x)
    for coefficient in reversed(rest):
        value = value * x + coefficient
    return value


def mlp(arm: str, width: int, hidden: int) -> nn.Module:
    """The MLP of an arm of this study, or of :mod:`layers`."""
    if arm == "gelu_norm":
        return layers.plain(NormalizedGELU(), width, hidden)
    if arm not in ("plain", *CANDIDATES, *CONTROLS):
        return layers.mlp(arm, width, hidden)
    made = layers.mlp("grkan", width, hidden)
    normalize(made, arm)
    return made


def normalize(made: nn.Module, arm: str) -> None:
    """Replace the rationals of a GR-KAN MLP by the rationals of an arm."""
    over = {"plain": None, "tails": None, "token": "token"}.get(arm, "group")
    made.act1 = NormalizedRational(made.act1, "group" if arm == "both" else None)
    made.act2 = NormalizedRational(made.act2, over, tails=arm.endswith("tails"))
    if arm == "act2_frozen":
        made.act1.requires_grad_(False)
        made.act2.requires_grad_(False)
