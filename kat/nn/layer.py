"""GR-KAN layers one after the other: in blocks of rows on a CPU, else by their modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kat.nn.blocks import Modules, has_no_effect, is_large_on_a_cpu, run_in_blocks
from kat.nn.hooks import call_grkan_hooks, has_grkan_hooks
from kat.nn.rational import GroupRational
from kat.ops.torch_internals import in_function_transform, is_exporting, is_patched


def run_layers(
    x: Tensor, layers: Sequence[Modules], *, keep: str | None, v: Tensor | None = None
) -> Tensor:
    """Return the output of layers, each of which is shown to the hooks on all GR-KAN layers.

    Args:
        x: (..., d_in).
        layers: the modules of each layer, in the order in which they are called.
        keep: see :data:`kat.nn.Keep`.
        v: the value of a gate, of x's shape; y = W (F(x) v) + bias for a single layer.
    """
    in_blocks = is_large_on_a_cpu(x, keep)
    chains = [[layer] for layer in layers] if has_grkan_hooks() else [layers]
    for chain in chains:
        y = run_in_blocks(x, chain, keep=keep, v=v) if in_blocks else None
        if y is None:
            y = _run_modules(x, chain, keep=keep, v=v)
        call_grkan_hooks(chain[0][0], chain[-1][-1], x, y)
        x = y
    return x


def _run_modules(
    x: Tensor, layers: Sequence[Modules], *, keep: str | None, v: Tensor | None
) -> Tensor:
    saves_memory = keep in ("hidden", "input") and _may_checkpoint()
    if saves_memory and keep == "input":
        z: Tensor = checkpoint(_run_modules, x, layers, keep=None, v=v, use_reentrant=False)
        return z
    for modules in layers:
        if saves_memory:
            x = checkpoint(_run_layer, x, modules, v, use_reentrant=False)
        else:
            x = _run_layer(x, modules, v)
    return x


def _run_layer(x: Tensor, modules: Modules, v: Tensor | None) -> Tensor:
    """linear(norm(drop(F(x)))): dropout and norm are called where they have an effect."""
    activation, *others = modules
    if v is None:
        x = activation(x)
    elif type(activation) is GroupRational and not is_patched(activation):
        x = activation(x, v)
    else:
        x = activation(x) * v
    for module in others:
        if not has_no_effect(module):
            x = module(x)
    return x


def _may_checkpoint() -> bool:
    """Return True if a backward pass may follow that can run the modules again."""
    return torch.is_grad_enabled() and not in_function_transform() and not is_exporting()
