"""Adapters as modules: changes of a rational's coefficients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kat.nn import GroupRational
from kat.nn.rational import largest_slopes

_COEFFICIENTS = ("weight_numerator", "weight_denominator")


class Change(nn.Module):
    """A_0 + D diag(s), with the coefficients A_0 and s frozen, and D = 0 at the start.

    Args:
        coefficients: A_0, (rows, k).
        scale: s, (k,).

    Weights:
        d (rows, k).
    """

    scale: Tensor

    def __init__(self, coefficients: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.d = nn.Parameter(torch.zeros_like(coefficients))
        self.register_buffer("scale", scale.to(coefficients))

    def forward(self, coefficients: Tensor) -> Tensor:
        """The coefficients A_0 to the changed ones."""
        return coefficients + self.d * self.scale


class LowRankChange(nn.Module):
    """A_0 + (U V) diag(s), the coefficients of G groups, with A_0 and s frozen, U = 0 at the start.

    Args:
        coefficients: A_0, (1 or G, k).
        scale: s, (k,).
        groups: G.
        rank: of U V; G or k where that is less.

    Weights:
        u (G, rank), v (rank, k); the rows of v are orthonormal at the start.
    """

    scale: Tensor

    def __init__(self, coefficients: Tensor, scale: Tensor, groups: int, rank: int) -> None:
        super().__init__()
        columns = coefficients.shape[1]
        rank = min(rank, groups, columns)
        self.u = nn.Parameter(coefficients.new_zeros(groups, rank))
        self.v = nn.Parameter(nn.init.orthogonal_(coefficients.new_empty(rank, columns)))
        self.register_buffer("scale", scale.to(coefficients))

    def forward(self, coefficients: Tensor) -> Tensor:
        """The coefficients A_0 (1 or G, k) to the changed ones (G, k)."""
        product = (self.u[:, :, None] * self.v).sum(1)  # autocast would round that of matrices
        return coefficients + product * self.scale


def add_change(act: GroupRational, rank: int | None) -> None:
    """Add a change to both coefficients of a rational, which are frozen.

    Args:
        act: is changed in place.
        rank: of the change, after which every group has its own function; None: any change of the
            coefficients as they are, shared or not.
    """
    act.requires_grad_(False)
    for name, scale in zip(_COEFFICIENTS, scales(act), strict=True):
        coefficients = getattr(act, name).detach()
        if not coefficients.shape[1]:  # a polynomial has no denominator
            continue
        change: nn.Module = Change(coefficients, scale)
        if rank is not None:
            change = LowRankChange(coefficients, scale, act.num_groups, rank)
        parametrize.register_parametrization(act, name, change, unsafe=True)  # rows may grow


@torch.no_grad()
def scales(act: GroupRational) -> tuple[Tensor, Tensor]:
    """s_c = 1 / max |dF/dc| over [-6, 6] and all groups, for the coefficients c of each power.

    A step of one size in every entry of D moves F by as much at every power. Without s the highest
    powers alone would decide how large a step may be.

    Returns:
        s of the numerator (m + 1,) and of the denominator (n,), in float64; on the meta device, for
        a state dict, without values.
    """
    m, n = act.degree
    if act.weight_numerator.is_meta:
        return torch.empty(m + 1, device="meta"), torch.empty(n, device="meta")
    slopes = largest_slopes(act.weight_numerator, act.weight_denominator, act.form)
    return _inverse(slopes[0]), _inverse(slopes[1])


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 1 where F does not move at all, as that of 0 by its denominator."""
    return torch.where(x > 0, 1 / x, 1.0)


def remove_change(act: GroupRational, *, merge: bool) -> None:
    """Leave A_0, or the changed coefficients: a row for each group after a low-rank change."""
    if merge and any(isinstance(module, LowRankChange) for module in act.modules()):
        act.share = "none"
    changed: Any = act
    if parametrize.is_parametrized(
        act
    ):  # torch takes properties from the class, which copies of the model share
        kind = type(act)
        changed.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    for name in _COEFFICIENTS:
        if parametrize.is_parametrized(act, name):
            if merge:  # tied coefficients have changes of their own
                change = changed.parametrizations[name]
                change.original = nn.Parameter(change.original.detach().clone())
            parametrize.remove_parametrizations(act, name, leave_parametrized=merge)
