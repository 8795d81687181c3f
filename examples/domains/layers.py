"""The layers that the arms of every domain compare: MLPs with the same number of parameters.

    gelu         y = W2 gelu(W1 x + b1) + b2
    swiglu       y = W2 (silu(Wg x + bg) * (Wx x + bx)) + b2
    grkan        y = W2 F2(W1 F1(x) + b1) + b2         F1, F2 learned from identity and SiLU
    gated_grkan  y = W2 (F(Wg x + bg) * (Wx x + bx)) + b2        F learned from SiLU
    frozen       as grkan, but F1 and F2 stay what they are at the start

All linear maps are drawn in the same way, by the paper's variance-preserving scheme for the
function before them. So grkan differs from frozen by what it learns alone, gated_grkan from swiglu,
and frozen from gelu by SiLU in the place of GELU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.nn import init_grkan_

ARMS = ("gelu", "swiglu", "grkan", "gated_grkan", "frozen")
REFERENCES = {"swiglu": "gelu", "grkan": "gelu", "gated_grkan": "swiglu", "frozen": "gelu"}
"""By arm, the one from which its differences are taken."""
GROUPS = 8


class SquaredReLU(nn.Module):
    """max(x, 0)^2."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


class XIELU(nn.Module):
    """p x^2 + x / 2 for x > 0, else n (exp(x) - 1 - x) + x / 2, with learned p > 0 and n > 1 / 2.

    Source: arXiv 2411.13010, with the initial p = n = 0.8 of Apertus.
    """

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.tensor([0.8]).expm1().log())  # softplus inverts this
        self.negative = nn.Parameter(torch.tensor([0.8 - 0.5]).expm1().log())

    def forward(self, x: Tensor) -> Tensor:
        p, n = functional.softplus(self.positive), 0.5 + functional.softplus(self.negative)
        below = x.clamp(max=-1e-6)  # exp of a large x would make the gradient NaN
        return torch.where(x > 0, p * x.square(), n * (below.expm1() - x)) + 0.5 * x


FUNCTIONS = {
    "gelu": nn.GELU, "silu": nn.SiLU, "relu2": SquaredReLU, "xielu": XIELU
}  # fmt: skip
"""Activations of plain MLPs; a domain may compare those that are in use there."""


def mlp(arm: str, width: int, hidden: int) -> nn.Module:
    """The arm's map from (..., width) to (..., width), with as many parameters as in any arm.

    Args:
        arm: one of :data:`ARMS`, or the name of one of :data:`FUNCTIONS`.
        width: of input and output, a multiple of :data:`GROUPS`.
        hidden: the hidden width of the MLPs that are not gated, a multiple of 3 * :data:`GROUPS`;
            the hidden layer of the gated ones is about two thirds as wide.

    Raises:
        ValueError: there is no such arm.
    """
    if arm in FUNCTIONS:
        return plain(FUNCTIONS[arm](), width, hidden)
    if arm == "swiglu":
        return SwiGLU(width, gated_width(width, hidden))
    if arm == "gated_grkan":
        return kat.GatedGRKANMlp(width, gated_width(width, hidden), num_groups=GROUPS)
    if arm not in ("grkan", "frozen"):
        raise ValueError(f"there is no arm {arm!r}")
    made = kat.GRKANMlp(width, hidden, num_groups=GROUPS)
    for act in (made.act1, made.act2):
        act.requires_grad_(arm != "frozen")
    return made


def gated_width(width: int, hidden: int) -> int:
    """The multiple of GROUPS with which 3 linear maps are as large as 2 of the width ``hidden``.

    hidden (2 width + 1) parameters without the last bias = gated (3 width + 2) of them.
    """
    return GROUPS * round(hidden * (2 * width + 1) / (3 * width + 2) / GROUPS)


def plain(act: nn.Module, width: int, hidden: int) -> nn.Sequential:
    """W2 act(W1 x + b1) + b2."""
    made = nn.Sequential(nn.Linear(width, hidden), act, nn.Linear(hidden, width))
    init_grkan_(made[0], nn.Identity(), "variance_preserving")
    init_grkan_(made[2], act, "variance_preserving")
    return made


class SwiGLU(nn.Module):
    """W2 (silu(Wg x + bg) * (Wx x + bx)) + b2, with the names of kat.GatedGRKANMlp."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.act = nn.SiLU()
        self.fc2 = nn.Linear(hidden, width)
        for linear in (self.fc1_g, self.fc1_x):
            init_grkan_(linear, nn.Identity(), "variance_preserving")
        init_grkan_(self.fc2, self.act, "variance_preserving")

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1_g(x)) * self.fc1_x(x))
