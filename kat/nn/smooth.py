"""Rationals without a kink: their denominators keep to even powers of x."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from kat.nn.rational import rationals


def keep_even(model: nn.Module) -> list[RemovableHandle]:
    """Makes every F of a model smooth, by Q(x) = 1 + |b_2| x^2 + |b_4| x^4 + ..., for good.

    Of form A, b_1, b_3, ... are set to zero and their gradients too, so that no optimizer moves
    them, with weight decay or without. Else F' or F'' jumps at x = 0 once trained, which a loss of
    derivatives at points, as in physics-informed networks, does not see (docs/higher-order.md).

    Call it on the model that is trained, after ``fully_shard``: a copy of the model, or one that is
    sharded later, has the zeros but trains them. Frozen rationals may be unfrozen later.

    Args:
        model: a module that has rationals, or is one.

    Returns:
        The hooks of the gradients; ``remove()`` of each lets the odd b_j train again.

    Raises:
        ValueError: there is no rational; or one of form B, in which even powers do not help; or one
            whose coefficients are parametrized, as :func:`kat.adapt` leaves them.

    Examples:
        >>> import torch
        >>> import kat
        >>> mlp = kat.GRKANMlp(16, 64)
        >>> hooks = kat.nn.keep_even(mlp)
        >>> mlp(torch.randn(4, 16)).square().sum().backward()
        >>> mlp.act2.weight_denominator.grad[:, ::2].abs().max().item()
        0.0
    """
    found = rationals(model)
    if not found:
        raise ValueError("the model has no rational whose denominator could be kept even")
    for name, rational in found.items():
        if rational.form != "A" or parametrize.is_parametrized(rational):
            raise ValueError(
                f"{name or 'the rational'} is of form B, which has kinks elsewhere too, or its"
                " coefficients are parametrized, as by kat.adapt: merge() its adapters first"
            )
    denominators = [rational.weight_denominator for rational in found.values()]
    with torch.no_grad():
        for b in denominators:
            b.mul_(_even(b))
    return [handle for b in denominators for handle in _keep_odd_at_zero(b)]


def _keep_odd_at_zero(b: nn.Parameter) -> list[RemovableHandle]:
    """Clears the gradients of b_1, b_3, ...; of a frozen parameter too, which may train later."""
    trains = b.requires_grad
    b.requires_grad_(True)
    handles = [
        b.register_hook(lambda grad: grad * _even(grad)),
        # FSDP2 writes gradients that no hook of autograd sees.
        b.register_post_accumulate_grad_hook(_clear_odd),
    ]
    b.requires_grad_(trains)
    return handles


def _clear_odd(b: Tensor) -> None:
    if b.grad is not None:
        with torch.no_grad():
            b.grad.mul_(_even(b.grad))


def _even(like: Tensor) -> Tensor:
    """1 at b_2, b_4, ..., 0 at b_1, b_3, ...; like the coefficients (1 or G, n), sharded or not."""
    places = torch.ones_like(like).cumsum(1)
    return (places % 2 == 0).to(like.dtype)
