"""A low-rank change of the coefficients of a rational, across its groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kat.nn import GroupRational, group_functions
from kat.nn.coefficients import KANIFY_INTERVAL

_COEFFICIENTS = ("weight_numerator", "weight_denominator")


class LowRank(nn.Module):
    """A_0 + (U V) diag(s), the coefficients of G groups, with A_0 and s frozen, U = 0 at the start.

    Args:
        coefficients: A_0, (1 or G, k).
        groups: G.
        rank: of U V; G or k where that is less.
        scale: s, (k,).

    Weights:
        u (G, rank), v (rank, k); the rows of v are orthonormal at the start.
    """

    scale: Tensor

    def __init__(self, coefficients: Tensor, groups: int, rank: int, scale: Tensor) -> None:
        super().__init__()
        columns = coefficients.shape[1]
        rank = min(rank, groups, columns)
        self.u = nn.Parameter(coefficients.new_zeros(groups, rank))
        self.v = nn.Parameter(nn.init.orthogonal_(coefficients.new_empty(rank, columns)))
        self.register_buffer("scale", scale.to(coefficients))

    def forward(self, coefficients: Tensor) -> Tensor:
        """(1 or G, k) to (G, k)."""
        return coefficients + self.u @ self.v * self.scale


def add_low_rank(act: GroupRational, rank: int) -> None:
    """Adds (U V) diag(s) to both coefficients of a rational: each group has its own function."""
    for name, scale in zip(_COEFFICIENTS, scales(act), strict=True):
        coefficients = getattr(act, name).detach()
        if coefficients.shape[1]:  # a polynomial has no denominator
            change = LowRank(coefficients, act.num_groups, rank, scale)
            parametrize.register_parametrization(act, name, change, unsafe=True)  # rows may grow


@torch.no_grad()
def scales(act: GroupRational) -> tuple[Tensor, Tensor]:
    """s_c = 1 / max |dF/dc| over [-6, 6] and all groups, for the coefficients c of each power.

    With dF/da_i = x^i / Q and |dF/db_j| = |F| |x|^j / Q, a step of one size in every entry of U V
    moves F by as much at every power. Without s the highest powers alone would decide how large a
    step may be.

    Returns:
        s of the numerator (m + 1,) and of the denominator (n,), in float64.
    """
    m, n = act.degree
    x = torch.linspace(*KANIFY_INTERVAL, 241, dtype=torch.float64)
    one = torch.tensor([[1.0] + m * [0.0]])
    inverse_q = group_functions(x, one, act.weight_denominator, act.form)
    powers = x.abs() ** torch.arange(max(m, n) + 1)[:, None, None]
    numerator = (powers[: m + 1] * inverse_q).amax((1, 2))
    denominator = (powers[1 : n + 1] * inverse_q * act.functions(x).abs()).amax((1, 2))
    return 1 / numerator, 1 / denominator


def has_low_rank(act: GroupRational) -> bool:
    """Whether the coefficients of a rational are A_0 + U V."""
    return parametrize.is_parametrized(act)


def merge_low_rank(act: GroupRational) -> None:
    """Makes A_0 + (U V) diag(s) plain coefficients, a row for each group."""
    _remove(act, merged=True)
    act.share = "none"


def remove_low_rank(act: GroupRational) -> None:
    """Leaves A_0."""
    _remove(act, merged=False)


def _remove(act: GroupRational, merged: bool) -> None:
    for name in _COEFFICIENTS:
        if parametrize.is_parametrized(act, name):
            parametrize.remove_parametrizations(act, name, leave_parametrized=merged)
