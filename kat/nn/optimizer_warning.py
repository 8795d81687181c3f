"""Warnings of optimizers that treat the coefficients of rationals as weight matrices.

Common rules of training scripts do so, since coefficients have two dimensions: weight decay for all
parameters of two or more, as in nanoGPT, or for all but biases and norms, as in Hugging Face's
Trainer; Muon for all parameters of the blocks, as in nanochat.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from kat.nn.rational import ALIVE

_STACK_LEVEL = 4
"""From the warning to the call of ``optimizer.step()``."""


def warn_of_common_rules(optimizer: torch.optim.Optimizer) -> None:
    """Warn if an optimizer decays the coefficients of a rational, or gives them to Muon.

    Groups with ``rational=True``, as :func:`kat.param_groups` makes them, may decay them.

    Warns:
        UserWarning: it does; the message has the line to write.
    """
    coefficients = set()  # of ids: a compiled step cannot compare parameters
    for act in ALIVE:
        for parameter in act.parameters():
            if parameter.requires_grad:
                coefficients.add(id(parameter))
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if coefficients.isdisjoint(map(id, group["params"])):
            continue
        if _is_for_matrices(optimizer, group):
            problem = (
                "orthogonalizes the steps of rational coefficients as if they were weight matrices,"
                " so the functions do not learn as they should. Write: matrices, coefficients, rest"
                f" = kat.split_parameters(model), and give the matrices alone to {name}"
            )
        elif group.get("weight_decay") and not group.get("rational"):
            problem = (
                "decays rational coefficients, which pulls the functions towards zero. Write:"
                f" {name}(kat.param_groups(model, lr=..., weight_decay=...))"
            )
        else:
            continue
        warnings.warn(f"{name} {problem}", stacklevel=_STACK_LEVEL)
        return


def _is_for_matrices(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> bool:
    """Return True if a group takes steps of Muon; torch's Muon does not know ``use_muon``."""
    if isinstance(optimizer, torch.optim.Muon):
        return True
    return "muon" in type(optimizer).__name__.lower() and bool(group.get("use_muon", True))
