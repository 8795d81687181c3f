"""Adapters as modules: changes of a rational's coefficients, and a bottleneck beside an MLP."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kat.errors import InputError
from kat.nn import GRKANLinear, GroupRational, init_grkan_
from kat.nn.rational import largest_slopes

_COEFFICIENTS = ("weight_numerator", "weight_denominator")
NAME = "parallel"
"""Name of the bottleneck in the module whose output it is added to."""


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
        """Return the coefficients A_0 to the changed ones."""
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
        """Return the coefficients A_0 (1 or G, k) to the changed ones (G, k)."""
        product = (self.u[:, :, None] * self.v).sum(1)  # autocast would round a product of matrices
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
    """1 / x, and 1 where F does not move at all, as F = 0 does not by its denominator."""
    return torch.where(x > 0, 1 / x, 1.0)


def is_adapted(module: nn.Module | None) -> bool:
    """Return True if a module has an adapter: a rational a change, another one a bottleneck."""
    if isinstance(module, GroupRational):
        return parametrize.is_parametrized(module)
    return hasattr(module, NAME)


def remove_change(act: GroupRational, *, merge: bool) -> None:
    """Leave A_0, or the changed coefficients: a row for each group after a low-rank change."""
    if merge and any(isinstance(module, LowRankChange) for module in act.modules()):
        act.share = "none"
    changed: Any = act
    if is_adapted(act):  # torch takes properties from the class, which copies of the model share
        kind = type(act)
        changed.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    for name in _COEFFICIENTS:
        if parametrize.is_parametrized(act, name):
            if merge:  # tied coefficients have changes of their own
                change = changed.parametrizations[name]
                change.original = nn.Parameter(change.original.detach().clone())
            parametrize.remove_parametrizations(act, name, leave_parametrized=merge)


def _thread() -> int:
    """Return the thread that calls, since several may; a compiled graph has one."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class Parallel(nn.Module):
    """y + W_2 F(W_1 x + b_1) + b_2, x and y input and output of an MLP, W_2 = b_2 = 0 at the start.

    Args:
        widths: d_in, the width of the bottleneck, d_out. F has the largest number of groups up to 8
            that divides the second.
        device, dtype: of the parameters.
    """

    def __init__(self, widths: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        d_in, width, d_out = widths
        self.inputs: dict[int, Tensor] = {}  # of the passes that run, by thread
        self.down = nn.Linear(d_in, width, device=device, dtype=dtype)
        self.up = GRKANLinear(width, d_out, num_groups="auto", device=device, dtype=dtype)
        init_grkan_(self.down, nn.Identity(), "variance_preserving")
        nn.init.zeros_(self.up.fc.weight)
        nn.init.zeros_(self.up.fc.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "inputs": {}}

    def forward(self, x: Tensor) -> Tensor:
        """W_2 F(W_1 x + b_1) + b_2."""
        y: Tensor = self.up(self.down(x))
        return y

    def put(self, first: nn.Module, last: nn.Module) -> None:
        """Insert the bottleneck beside an MLP, as a child of the MLP's last module.

        Args:
            first: gets x.
            last: returns y; runs after ``first``, or is the same module.
        """
        last.add_module(NAME, self.train(last.training))
        # Hooks that are methods belong to the copy, in a copy of the model.
        before = first.register_forward_pre_hook(self._take, with_kwargs=True)
        self.hooks = [before, last.register_forward_hook(self._add)]

    def take_out(self, last: nn.Module) -> None:
        """Remove the bottleneck from the last module."""
        for hook in self.hooks:
            hook.remove()
        delattr(last, NAME)

    def _take(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Store the input until the MLP returns."""
        values = (*args, *kwargs.values())
        self.inputs[_thread()] = next(value for value in values if isinstance(value, Tensor))

    def _add(self, _: nn.Module, args: Any, y: Tensor) -> Tensor:
        x = self.inputs.pop(_thread())
        if x.shape[:-1] != y.shape[:-1]:
            raise InputError(
                f"a parallel adapter maps each token by itself, and its MLP turns {tuple(x.shape)}"
                f" into {tuple(y.shape)}: leave that MLP out of kat.adapt"
            )
        return y + self(x.to(self.down.weight.dtype)).to(y.dtype)
