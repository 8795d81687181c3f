"""The memory that a training step needs for activations: what autograd keeps for backward."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from kat.analysis.cost.hooks import run_by_layer

_BATCHES = (2, 3)
"""One image is no batch: layouts of size 1 hide copies, and a batch norm may refuse it."""


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes that autograd keeps between a model's forward and backward pass.

    Args:
        layers: for each image, by the name of the layer that keeps a tensor first.
        fixed: of a batch of any size: what is computed from parameters alone, and statistics.
    """

    layers: dict[str, int]
    fixed: int

    @property
    def per_image(self) -> int:
        """For each image of a batch."""
        return sum(self.layers.values())


def activation_memory(
    model: nn.Module, input_size: tuple[int, ...], *, input_gradient: bool = False
) -> ActivationMemory:
    """Measures what autograd keeps for the backward pass, in training, on the CPU in float32.

    Two forward passes are made, of batches of 2 and 3 images: what the second keeps more is due to
    one image. Each piece of memory is counted once, however many tensors show it; parameters,
    buffers and plain numbers are not counted, the input is where it is kept.

    Args:
        model: maps (B, *input_size) to something.
        input_size: (C, H, W) of an image; any shape, for other models.
        input_gradient: whether a gradient is wanted for the input, as for a layer of a network.

    Raises:
        InputError: the model fails on such an input.
    """
    twin = deepcopy(model).float().cpu().train()
    small, large = (
        _kept(twin, torch.zeros(size, *input_size, requires_grad=input_gradient))
        for size in _BATCHES
    )
    layers = {name: large[name] - small[name] for name in large}
    fixed = small.total() - _BATCHES[0] * sum(layers.values())
    return ActivationMemory({name: count for name, count in layers.items() if count}, fixed)


def _kept(model: nn.Module, x: Tensor) -> Counter[str]:
    """Bytes kept by each layer of a forward pass."""
    known: dict[int, UntypedStorage] = {}
    kept: Counter[str] = Counter()

    def is_new(tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        new = storage._cdata not in known
        known[storage._cdata] = storage  # held, so that its address is not given to another
        return new

    def pack(tensor: Tensor) -> None:
        if is_new(tensor):
            kept["bytes"] += tensor.untyped_storage().nbytes()

    for tensor in (*model.parameters(), *model.buffers()):
        is_new(tensor)
    with torch.enable_grad(), saved_tensors_hooks(pack, _unpack):
        by_layer = run_by_layer(model, x, kept.copy)
    return Counter({name: counts["bytes"] for name, counts in by_layer.items()})


def _unpack(_: Any) -> NoReturn:
    raise AssertionError("there is no backward pass")
