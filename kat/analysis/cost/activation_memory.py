"""The memory that training needs for activations: what autograd keeps for the backward pass."""

from __future__ import annotations

import math
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd.graph import saved_tensors_hooks

from kat.analysis.cost.flops import run_by_layer
from kat.nn.blocks.decision import SMALL
from kat.nn.hooks import register_grkan_hook

_LEAST = 2
"""More than one image: layouts of size 1 hide copies, and batch norm may refuse them."""


@dataclass(frozen=True)
class ActivationMemory:
    """The bytes that autograd keeps between the forward and the backward pass of a model.

    Args:
        layers: bytes per image, by the name of the layer that first keeps a tensor.
        fixed: bytes per batch of any size, for what depends on parameters alone and for statistics.

    Examples:
        >>> import kat
        >>> from kat.analysis import activation_memory
        >>> memory = activation_memory(kat.models.create_model("kat_micro", depth=1), (3, 32, 32))
        >>> max(memory.layers, key=memory.layers.get)
        'blocks.0.mlp'
    """

    layers: dict[str, int]
    fixed: int

    @property
    def per_image(self) -> int:
        """Bytes per image."""
        return sum(self.layers.values())


def activation_memory(
    model: nn.Module, input_size: tuple[int, ...], *, input_gradient: bool = False
) -> ActivationMemory:
    """Measure what autograd keeps for the backward pass in training mode, on the CPU in float32.

    A GR-KAN layer without ``keep=`` of its own counts as in eager training on a CPU: ``"hidden"``
    where it runs in blocks of rows, else ``"all"``. On a GPU it would keep all.

    The difference between forward passes over two batches, of which one has an image more, is due
    to that image. They have as many images as it takes to make no call of a layer a small one.
    Each storage is counted once, however many tensors share it. Parameters, buffers and plain
    numbers do not count; the input does where it is kept.

    Args:
        model: takes (B, *input_size).
        input_size: (C, H, W) of an image; any shape, for other models.
        input_gradient: the input needs a gradient, as the input of an inner layer does.

    Examples:
        >>> import torch
        >>> from kat.analysis import activation_memory
        >>> mlp = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU())
        >>> memory = activation_memory(mlp, (8,))  # keeps the input and the output of ReLU
        >>> memory.per_image, memory.fixed
        (288, 0)
    """
    twin = deepcopy(model).float().cpu().train()
    count = _images(twin, input_size)
    small, large = (
        _kept(twin, torch.zeros((size, *input_size), requires_grad=input_gradient))
        for size in (count, count + 1)
    )
    layers = {name: large[name] - small[name] for name in large}
    fixed = small.total() - count * sum(layers.values())
    return ActivationMemory({name: count for name, count in layers.items() if count}, fixed)


def _images(model: nn.Module, input_size: tuple[int, ...]) -> int:
    """Return the number of images with which no call of a GR-KAN layer is a small one."""
    sizes = []
    handle = register_grkan_hook(lambda act, linear, x, y: sizes.append(x.numel()))
    with torch.no_grad():
        model(torch.zeros((_LEAST, *input_size)))
    handle.remove()
    return max(_LEAST, math.ceil(_LEAST * SMALL / min(sizes, default=SMALL)))


def _kept(model: nn.Module, x: Tensor) -> Counter[str]:
    """Return the bytes that each layer keeps in a forward pass."""
    known: dict[int, UntypedStorage] = {}
    kept: Counter[str] = Counter()

    def is_new(tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        new = storage.data_ptr() not in known
        known[storage.data_ptr()] = storage  # held, so that the address is not used again
        return new

    def pack(tensor: Tensor) -> None:
        if is_new(tensor):
            kept["bytes"] += tensor.untyped_storage().nbytes()

    for tensor in (*model.parameters(), *model.buffers()):
        is_new(tensor)
    hooks = saved_tensors_hooks(pack, lambda nothing: nothing)
    with torch.enable_grad(), hooks:
        by_layer = run_by_layer(model, x, kept.copy)
    return Counter({name: counts["bytes"] for name, counts in by_layer.items()})
