"""One run of training that can be killed and resumed, the same for every arm and domain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from rows import warm_up_and_decay
from runner import Trial
from torch import Tensor, nn

import kat
from kat.files import replacing

EVALUATIONS = 20
"""How often a run is evaluated; a checkpoint is written each time."""
PATIENCE = 5
"""Seconds between two lines that tell how far a run is."""


def train(
    trial: Trial,
    model: nn.Module,
    loss: Callable[[], Tensor],
    validate: Callable[[], float],
    weight_decay: float = 0.0,
    max_norm: float = math.inf,
    make_optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]] | None = None,
) -> dict[str, Any]:
    """Minimizes ``loss`` with warm-up and linear decay; keeps the best weights.

    Args:
        trial: the rate, the number of steps, and where the checkpoint is.
        model: is trained in place, and ends with the weights of the lowest validation error.
        loss: draws a batch from torch's generator of random numbers, and returns its loss.
        validate: the validation error of the model; it draws nothing.
        weight_decay: of weights; biases, norms and coefficients of rationals have none.
        max_norm: the largest norm of the gradient, which is scaled to it.
        make_optimizers: the optimizers, in the place of AdamW, with rates and weight decay of their
            own.

    Returns:
        ``valid``, the lowest validation error, infinite if training diverged; ``seconds`` and
        ``cpu_seconds`` of training; and ``curve``, pairs of a number of steps and the validation
        error then.
    """
    if make_optimizers is None:
        groups = kat.param_groups(model, trial.rate, weight_decay=weight_decay)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups)]
    else:
        optimizers = make_optimizers(model)
    schedules = [warm_up_and_decay(optimizer, trial.steps) for optimizer in optimizers]
    parts: dict[str, Any] = {"model": model}
    for number, pair in enumerate(zip(optimizers, schedules, strict=True)):
        parts[f"optimizer {number}"], parts[f"schedule {number}"] = pair
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "cpu_seconds": 0.0, "curve": []}
    state |= {"valid": math.inf, "best": {}}
    if trial.checkpoint.exists():
        state = _load(trial, parts)
        print(f"  resumed at step {state['step']}", flush=True)
    every = max(1, trial.steps // EVALUATIONS)
    told = state["seconds"]
    began = time.perf_counter() - told
    cpu_began = time.process_time() - state["cpu_seconds"]
    for step in range(state["step"] + 1, trial.steps + 1):
        model.train()
        value = loss()
        model.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if step % every and step != trial.steps:
            continue
        model.eval()
        valid = validate() if value.isfinite() else math.inf
        state |= {"step": step, "curve": [*state["curve"], (step, valid)]}
        state["seconds"] = time.perf_counter() - began
        state["cpu_seconds"] = time.process_time() - cpu_began
        if state["seconds"] > told + PATIENCE:
            told = state["seconds"]
            print(f"  step {step}/{trial.steps}  valid {valid:.4f}  {told:.0f} s", flush=True)
        if not math.isfinite(valid):
            state["valid"] = math.inf
            break
        if valid <= state["valid"]:
            best = {name: value.detach().clone() for name, value in model.state_dict().items()}
            state |= {"valid": valid, "best": best}
        _save(trial, parts, state)
    model.load_state_dict(state["best"] or model.state_dict())
    model.eval()
    return {name: state[name] for name in ("valid", "seconds", "cpu_seconds", "curve")}


def _save(trial: Trial, parts: dict[str, Any], state: dict[str, Any]) -> None:
    """Writes a checkpoint under another name first: a run that is killed leaves the last one."""
    states = {name: part.state_dict() for name, part in parts.items()}
    random = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    with replacing(trial.checkpoint) as path:
        torch.save({**states, "state": state, "random": random}, path)


def _load(trial: Trial, parts: dict[str, Any]) -> dict[str, Any]:
    content = torch.load(trial.checkpoint, map_location=trial.device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(content[name])
    own, *of_gpus = (each.cpu() for each in content["random"])
    torch.set_rng_state(own)
    torch.cuda.set_rng_state_all(of_gpus)
    state: dict[str, Any] = content["state"]
    return state
