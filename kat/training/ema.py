"""The moving average of the weights, which is validated and kept as the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


class WeightAverage:
    """avg <- d avg + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 + t)).

    Averages parameters and floating-point buffers; other buffers are copied. The warm-up lets a run
    of a few hundred steps forget its initial weights. Sharded weights have sharded averages.

    Args:
        model: whose weights are averaged; their average starts as they are.
        decay: d after the warm-up, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.steps = 0
        self.values = {name: tensor.clone() for name, tensor in self._current().items()}

    def rate(self) -> float:
        """d of the next step: :attr:`steps` are taken."""
        return min(self.decay, (1 + self.steps) / (10 + self.steps))

    @torch.no_grad()
    def update(self) -> None:
        """Takes the weights that a step has made into the average."""
        averaged, weight = [], 1 - self.rate()
        for name, tensor in self._current().items():
            value = local(self.values[name])
            if value.is_floating_point():
                averaged.append((value, local(tensor)))
            else:
                value.copy_(local(tensor))
        if averaged:
            values, tensors = zip(*averaged, strict=True)
            torch._foreach_lerp_(list(values), list(tensors), weight)
        self.steps += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Has the model compute with the average in the place of its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def to_device(self) -> None:
        """Follows the model to the device that it is on."""
        devices = {name: tensor.device for name, tensor in self._current().items()}
        self.values = {name: value.to(devices[name]) for name, value in self.values.items()}

    def state(self) -> dict[str, Tensor]:
        """The whole average by names of the model's state dict; all processes must call it."""
        return {name: whole(value) for name, value in self.values.items()}

    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Goes on from what :meth:`state` gave after so many steps."""
        for name, value in self.values.items():
            if name in state:  # buffers that are not persistent are not
                assign(value, state[name])
        self.steps = steps

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._current().items():
            value, current = local(self.values[name]), local(tensor)
            kept = value.clone()
            value.copy_(current)
            current.copy_(kept)

    def _current(self) -> dict[str, Tensor]:
        own = [*self.model.named_parameters(), *self.model.named_buffers()]
        return {name: tensor.detach() for name, tensor in own}


@torch.no_grad()
def assign(target: Tensor, whole: Tensor) -> None:
    """target <- its share of ``whole``, which every process has."""
    if isinstance(target, DTensor):
        share = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
        local(target).copy_(local(share))
    else:
        target.copy_(whole)


def local(tensor: Tensor) -> Any:
    """This process's share of a sharded tensor; others are whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, for which all processes must call it; others as they are."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
