"""GR-KAN layers that do not run by the formula of their module: in blocks, or one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat.nn import blocks
from kat.nn.blocks import Modules
from kat.nn.hooks import call_grkan_hooks, has_grkan_hooks
from kat.nn.rational import GroupRational
from kat.ops.torch_internals import in_function_transform, is_exporting, is_patched


def run_layers(module: Any, x: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Return the output of a module's layers where they do not run by its formula; else None.

    They run in blocks of rows where :func:`blocks.layers` says so; and one at a time while hooks
    watch GR-KAN layers, and where less is kept for a backward pass.

    Args:
        module: a GR-KAN layer or MLP.
        x: (..., d_in).
        v: the value of a gate, of x's shape; y = W (F(x) v) + bias for a single layer.
    """
    in_blocks, keep = blocks.layers(module, x, v), module.keep
    watched, recomputes = has_grkan_hooks(), _recomputes(keep)
    if not watched and in_blocks is not None:
        return blocks.run(x, in_blocks, v, keep=keep)
    if not watched and not recomputes:
        return None
    layers = module.grkan_layers()
    if not watched and keep == "input":
        z: Tensor = checkpoint(_run, x, layers, v, use_reentrant=False)
        return z
    for number, modules in enumerate(layers):
        if in_blocks is not None:
            y = blocks.run(x, in_blocks[number : number + 1], v, keep=keep)
        elif recomputes:
            y = checkpoint(_run, x, [modules], v, use_reentrant=False)
        else:
            y = _run(x, [modules], v)
        call_grkan_hooks(modules[0], modules[-1], x, y)
        x = y
    return x


def gate(activation: nn.Module, x: Tensor, v: Tensor | None) -> Tensor:
    """F(x) v, by one kernel where F is a plain rational; without v F(x)."""
    if v is not None and type(activation) is GroupRational and not is_patched(activation):
        return activation.forward(x, v)
    y: Tensor = activation(x)
    return y if v is None else y * v


def _run(x: Tensor, layers: Sequence[Modules], v: Tensor | None) -> Tensor:
    """linear(norm(drop(F(x)))) of each layer, or of F(x) v."""
    for activation, *others in layers:
        x = gate(activation, x, v)
        for module in others:
            x = module(x)
    return x


def _recomputes(keep: str | None) -> bool:
    """Return True if less is kept, for a backward pass that can run the modules again."""
    if keep not in ("hidden", "input") or not torch.is_grad_enabled():
        return False
    return not (in_function_transform() or is_exporting())
