"""What autograd keeps for the backward pass of a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """The bytes that a call keeps, without the parameters; each memory counts once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x).sum()
    parameters = {p.data_ptr() for p in module.parameters()}
    return sum(size for pointer, size in sizes.items() if pointer not in parameters)
