"""GR-KAN layers one at a time: while hooks watch them, and where they keep less for backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat.nn.blocks import Modules
from kat.nn.hooks import call_grkan_hooks, has_grkan_hooks
from kat.nn.rational import GroupRational
from kat.ops.torch_internals import in_function_transform, is_exporting, is_patched


def runs_by_layer(keep: str | None) -> bool:
    """Return True if a module is to call :func:`run_by_layer`."""
    return has_grkan_hooks() or _recomputes(keep)


def run_by_layer(module: Any, x: Tensor, v: Tensor | None = None) -> Tensor:
    """Return the output of a module's layers, each of which is shown to the hooks.

    Args:
        module: a GR-KAN layer or MLP.
        x: (..., d_in).
        v: the value of a gate, of x's shape; y = W (F(x) v) + bias for a single layer.
    """
    keep, layers = module.keep, module.grkan_layers()
    if keep == "input" and not has_grkan_hooks():
        z: Tensor = checkpoint(_run_all, x, layers, v, use_reentrant=False)
        return z
    for modules in layers:
        if _recomputes(keep):
            y = checkpoint(_run, x, modules, v, use_reentrant=False)
        else:
            y = _run(x, modules, v)
        call_grkan_hooks(modules[0], modules[-1], x, y)
        x = y
    return x


def gate(activation: nn.Module, x: Tensor, v: Tensor | None) -> Tensor:
    """F(x) v, by one kernel where F is a plain rational; without v F(x)."""
    if v is not None and type(activation) is GroupRational and not is_patched(activation):
        return activation.forward(x, v)
    y: Tensor = activation(x)
    return y if v is None else y * v


def _run_all(x: Tensor, layers: Sequence[Modules], v: Tensor | None) -> Tensor:
    for modules in layers:
        x = _run(x, modules, v)
    return x


def _run(x: Tensor, modules: Modules, v: Tensor | None) -> Tensor:
    """linear(norm(drop(F(x)))), or of F(x) v."""
    activation, *others = modules
    x = gate(activation, x, v)
    for module in others:
        x = module(x)
    return x


def _recomputes(keep: str | None) -> bool:
    """Return True if less is kept, for a backward pass that can run the modules again."""
    if keep not in ("hidden", "input") or not torch.is_grad_enabled():
        return False
    return not (in_function_transform() or is_exporting())
