"""The optimizer of a run: parameter groups, learning rates, and clipped rational coefficients.

At step t of T, parameter p of layer l of L has the learning rate

    lr_p(t) = s_p r_p(t) c(t)

    c(t)    linear from warmup_lr to lr in the warm-up, then by the schedule
            cosine  min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2
            poly    min_lr + (lr - min_lr) (1 - t / T)^poly_power
            step    lr step_factor^k, k the number of step_at that t / T has reached
    s_p     layer_decay^(L - l), for a rational's coefficients times rational_lr_scale
    r_p(t)  min(1, t / R) for a rational's coefficients, with R steps of rational warm-up; else 1

where l is 0 for the embeddings, n for block n (counted from 1; the last norm counts to the last
block) and L for the head. The learning rates are functions of t alone, so checkpoints need not
store the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, param_groups_layer_decay
from torch import nn

from kat.errors import InputError
from kat.models import rational_parameter_names
from kat.nn.optimizer_groups import decay_groups, split_coefficients
from kat.nn.sharded import full_tensor
from kat.training.config import OptimConfig

_OWN = ("lr_scale", "weight_decay", "betas")
"""Settings of a parameter group that are not restored from a checkpoint."""


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Create timm's optimizer for the parameters that are not frozen.

    Parameters in ``model.no_weight_decay()``, biases and norms have no weight decay, and rational
    coefficients have ``rational_weight_decay``. With ``clip_coefficients`` c > 0, every coefficient
    is clamped to [-c, c] after each step.
    Before steps of SGD, their gradient is scaled as :func:`kat.param_groups` describes.
    Loading a state does not change the settings of the groups.

    Raises:
        InputError: an initial coefficient is outside [-c, c].
    """
    groups = parameter_groups(model, optim)
    info = get_optimizer_info(optim.name)
    known: Any = {"betas": optim.betas} if info.has_betas and info.num_betas == 2 else {}
    optimizer = create_optimizer_v2(groups, opt=optim.name, lr=optim.lr, **known)
    optimizer.register_load_state_dict_pre_hook(_keep_own_settings)
    if optim.clip_coefficients > 0:
        limit, names = optim.clip_coefficients, rational_parameter_names(model)
        for name, parameter in model.named_parameters():
            if name not in names or not parameter.requires_grad:
                continue
            largest = full_tensor(parameter.detach()).abs().max().item()  # a shard may be empty
            if largest > limit:
                raise InputError(
                    f"optim.clip_coefficients={limit:g} would change the model at the first step:"
                    f" a coefficient of {name} is {largest:.3g} at the start; give at least that"
                )
        optimizer.register_step_post_hook(partial(_clip, limit))
    return optimizer


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Return the groups of :func:`kat.param_groups`, or timm's of layer decay, split likewise.

    Returns:
        Groups with ``params``, ``weight_decay``, ``lr_scale`` (s_p above) and ``rational``, without
        frozen parameters.
    """
    if optim.layer_decay < 1:
        spared: set[str] = getattr(model, "no_weight_decay", set)()
        made = param_groups_layer_decay(
            model, optim.weight_decay, spared, layer_decay=optim.layer_decay
        )
    else:
        made = decay_groups(model, optim.weight_decay)
    groups = split_coefficients(model, made)
    for group in groups:
        group.setdefault("lr_scale", 1.0)
        if group["rational"]:
            group["lr_scale"] *= optim.rational_lr_scale
            group["weight_decay"] = optim.rational_weight_decay
    return groups


def _keep_own_settings(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = []
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        kept = {name: own[name] for name in _OWN if name in own}
        groups.append({**saved, **kept})
    return {**state, "param_groups": groups}


@torch.no_grad()
def _clip(limit: float, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["rational"] else ():
            parameter.clamp_(-limit, limit)


class Schedule:
    """Sets the learning rates of an optimizer as functions of the step.

    Checkpoints do not store the schedule. A resumed run follows the schedule of its own settings,
    e.g. a longer one if it has more epochs.

    Args:
        optimizer: optimizer from :func:`make_optimizer`.
        optim: the settings.
        epochs: number of epochs of the run.
        steps: number of steps T of the run.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, optim: OptimConfig, epochs: int, steps: int
    ) -> None:
        self.optimizer = optimizer
        self.optim = optim
        self.steps = steps
        self.warmup = round(steps * optim.warmup_epochs / epochs)
        self.rational_warmup = round(steps * optim.rational_warmup_epochs / epochs)
        self.set(0)

    def set(self, step: int) -> None:
        """Set the learning rates of the step with this index, counted from 0."""
        ramp = min(1.0, step / self.rational_warmup) if self.rational_warmup > 0 else 1.0
        self.learning_rate = self.common_rate(step)
        """c(t), without the factors of the groups."""
        for group in self.optimizer.param_groups:
            own = group["lr_scale"] * (ramp if group["rational"] else 1.0)
            group["lr"] = self.learning_rate * own

    def common_rate(self, step: int) -> float:
        """Return c(t)."""
        optim = self.optim
        if step < self.warmup:
            return optim.warmup_lr + step * (optim.lr - optim.warmup_lr) / self.warmup
        done = min(step / self.steps, 1.0)
        if optim.schedule == "step":
            reached = sum(step >= round(self.steps * share) for share in optim.step_at)
            return optim.lr * optim.step_factor**reached
        if optim.schedule == "poly":
            left = (1 - done) ** optim.poly_power
        else:
            left = (1 + math.cos(math.pi * done)) / 2
        return optim.min_lr + (optim.lr - optim.min_lr) * left


def optimizer_layout(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str
) -> dict[str, Any]:
    """Return the layout of an optimizer's state: its name and the parameter names of each group."""
    names = {id(parameter): own for own, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        groups.append([names[id(parameter)] for parameter in group["params"]])
    return {"name": name, "groups": groups}


def check_layout(
    model: nn.Module, optimizer: torch.optim.Optimizer, name: str, before: Mapping[str, Any]
) -> None:
    """Check that the optimizer's state in a checkpoint fits the settings.

    Args:
        model: the model, with its frozen parts.
        optimizer: optimizer from :func:`make_optimizer`.
        name: its name in the settings.
        before: the :func:`optimizer_layout` in the checkpoint.

    Raises:
        InputError: the state belongs to another optimizer or to other parameter groups.
    """
    now = optimizer_layout(model, optimizer, name)
    if before != now:
        raise InputError(
            f"the optimizer's state in the checkpoint ({before['name']}) does not fit the settings"
            f" ({now['name']}): optim.name, model.freeze and model.functions_from must be as they"
            " were, and optim.layer_decay and optim.weight_decay may be changed but not switched on"
            " or off"
        )
