"""The optimiser of a run: parameter groups, learning rates, and clipped rational coefficients.

At step t of T, parameter p of layer l of L has the learning rate

    lr_p(t) = s_p r_p(t) c(t)

    c(t)    linear from warmup_lr to lr in the warm-up, then by the schedule
            cosine  min_lr + (lr - min_lr) (1 + cos(pi t / T)) / 2
            poly    min_lr + (lr - min_lr) (1 - t / T)^poly_power
            step    lr step_factor^k, k the number of step_at that t / T has reached
    s_p     layer_decay^(L - l), and for a rational's coefficients rational_lr_scale times that
    r_p(t)  min(1, t / R) for a rational's coefficients, with R steps of rational warm-up; else 1

where l is 0 for the embeddings, n for block n (counted from 1; the last norm counts to the last
block) and L for the head. Every step is a function of t alone: a resumed run needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from kat.errors import InputError
from kat.models import rational_parameter_names
from kat.training.config import OptimConfig

_OWN = ("lr_scale", "weight_decay", "betas")
"""What a group takes from the settings, not from a checkpoint."""


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """timm's optimiser of that name over the parameters that are not frozen.

    ``model.no_weight_decay()``, biases and norms have no weight decay. With ``clip_coefficients``
    c > 0 every coefficient of a rational is put into [-c, c] after each step. A state that is
    loaded does not change the settings of the groups.

    Raises:
        InputError: it cannot be had here, or refuses a setting; a coefficient is beyond c from the
            start; nothing is left to train.
    """
    groups = parameter_groups(model, optim)
    if not groups:
        raise InputError("no parameter is left to train")
    betas: dict[str, Any] = {"betas": (optim.betas[0], optim.betas[1])}
    known = betas if get_optimizer_info(optim.name).has_betas else {}
    try:
        optimizer = create_optimizer_v2(groups, opt=optim.name, lr=optim.lr, **known)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"optimiser {optim.name!r} cannot be used: {error}") from None
    optimizer.register_load_state_dict_pre_hook(_keep_own_settings)
    if optim.clip_coefficients > 0:
        _check_clipping(model, optim.clip_coefficients)
        optimizer.register_step_post_hook(partial(_clip, optim.clip_coefficients))
    return optimizer


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """The groups of an optimiser: timm's, each cut into rational coefficients and everything else.

    Returns:
        Each group's ``params``, ``weight_decay``, ``lr_scale`` (s_p above) and whether it is
        ``rational``; nothing of what is frozen.
    """
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    if optim.layer_decay < 1:
        made = param_groups_layer_decay(
            model, optim.weight_decay, spared, layer_decay=optim.layer_decay
        )
    else:
        made = param_groups_weight_decay(model, optim.weight_decay, no_weight_decay_list=spared)
    names = rational_parameter_names(model)
    rationals = {id(p) for name, p in model.named_parameters() if name in names}
    groups = []
    for group in made:
        for rational in (False, True):
            scale = group.get("lr_scale", 1.0) * (optim.rational_lr_scale if rational else 1.0)
            params = [p for p in group["params"] if (id(p) in rationals) == rational]
            if params:
                groups.append({**group, "params": params, "lr_scale": scale, "rational": rational})
    return groups


def _keep_own_settings(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {**saved, **{name: own[name] for name in _OWN if name in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    return {**state, "param_groups": groups}


def _check_clipping(model: nn.Module, limit: float) -> None:
    names = rational_parameter_names(model)
    for name, parameter in model.named_parameters():
        largest = parameter.detach().abs().max().item() if name in names else 0.0
        if parameter.requires_grad and largest > limit:
            raise InputError(
                f"optim.clip_coefficients={limit:g} would change the model at the first step: a"
                f" coefficient of {name} is {largest:.3g} at the start; give at least that"
            )


@torch.no_grad()
def _clip(limit: float, optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["rational"] else ():
            parameter.clamp_(-limit, limit)


class _Stateless(Scheduler):
    """A schedule of timm's as a function of the step alone, with a warm-up of the rationals.

    A checkpoint keeps nothing of it, so that a resumed run follows the schedule of its own
    settings: with more epochs, the longer one.

    Args:
        optimizer: of :func:`make_optimizer`.
        rational_warmup: R, in steps.
        **options: of timm's scheduler, in steps.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, rational_warmup: int, **options: Any
    ) -> None:
        self.rational_warmup = rational_warmup
        super().__init__(optimizer, t_in_epochs=False, **options)
        self.step_update(0)

    def _get_lr(self, t: int) -> list[float]:
        ramp = min(1.0, t / self.rational_warmup) if self.rational_warmup > 0 else 1.0
        rates = super()._get_lr(t)  # type: ignore[safe-super]  # the scheduler beside it has one
        return [
            rate * (ramp if group["rational"] else 1.0)
            for rate, group in zip(rates, self.optimizer.param_groups, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""


class _Cosine(_Stateless, CosineLRScheduler):
    pass


class _Poly(_Stateless, PolyLRScheduler):
    pass


class _MultiStep(_Stateless, MultiStepLRScheduler):
    pass


def make_schedule(
    optimizer: torch.optim.Optimizer, optim: OptimConfig, epochs: int, steps: int
) -> Scheduler:
    """The schedule of a run of so many epochs and optimiser steps."""
    common: dict[str, Any] = {
        "rational_warmup": round(steps * optim.rational_warmup_epochs / epochs),
        "warmup_t": round(steps * optim.warmup_epochs / epochs),
        "warmup_lr_init": optim.warmup_lr,
    }
    if optim.schedule == "step":
        # timm's milestone m is in force from step m - 1 on
        milestones = [round(steps * share) + 1 for share in sorted(optim.step_at)]
        common |= {"decay_t": milestones, "decay_rate": optim.step_factor, "warmup_prefix": False}
        return _MultiStep(optimizer, **common)
    common |= {"t_initial": steps, "lr_min": optim.min_lr}
    if optim.schedule == "poly":
        return _Poly(optimizer, power=optim.poly_power, **common)
    return _Cosine(optimizer, **common)


def optimizer_layout(model: nn.Module, optim: OptimConfig) -> dict[str, Any]:
    """What an optimiser's state is of: its name, and the parameters of each group, by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [[names[id(p)] for p in g["params"]] for g in parameter_groups(model, optim)]
    return {"name": optim.name, "groups": groups}


def check_layout(model: nn.Module, optim: OptimConfig, checkpoint: Mapping[str, Any]) -> None:
    """Checks that the state of the optimiser in a checkpoint is for the optimiser of the settings.

    Args:
        model: with what is frozen.
        optim: the settings.
        checkpoint: as the trainer writes it, with :func:`optimizer_layout` as its entry
            ``"optimizer"``.

    Raises:
        InputError: it is of another optimiser, or of other groups of parameters.
    """
    before, now = checkpoint.get("optimizer"), optimizer_layout(model, optim)
    if before is None or before == now:
        return
    if before["name"] != now["name"]:
        what = f"is of {before['name']}, but optim.name={now['name']}"
        advice = "give the same, or start a new run from the old one with --init-from"
    else:
        what = f"has {_size(before['groups'])}, but the settings make {_size(now['groups'])}"
        advice = (
            "model.freeze must be as it was, and optim.layer_decay and optim.weight_decay may be"
            " changed but not switched on or off"
        )
    raise InputError(f"the optimiser's state in the checkpoint {what}: {advice}")


def _size(groups: Iterable[list[str]]) -> str:
    counts = [len(names) for names in groups]
    return f"{len(counts)} groups of {sum(counts)} parameters in all"
