"""The exponential moving average (EMA) of the weights, which is validated and kept as the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kat.training.cluster.parallel import assign, local


class EMA:
    """ema <- d ema + (1 - d) weights after each step t, with d = min(decay, (1 + t) / (10 + t)).

    Parameters and floating-point buffers are averaged; other buffers are copied, and so are those
    with infinite values at the start, such as masks. The warm-up of d lets a run of a few hundred
    steps forget its initial weights. Sharded weights have a sharded EMA.

    Args:
        model: model whose weights are averaged; the EMA starts from them.
        decay: d after the warm-up, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.steps = 0
        self.values = {name: tensor.clone() for name, tensor in self._current().items()}
        self._averaged = {name for name, value in self.values.items() if _can_be_averaged(value)}

    def rate(self) -> float:
        """Return d of the next step."""
        return min(self.decay, (1 + self.steps) / (10 + self.steps))

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after a step."""
        averages, weights = [], []
        for name, tensor in self._current().items():
            average = local(self.values[name])
            if name in self._averaged:
                averages.append(average)
                weights.append(local(tensor))
            else:
                average.copy_(local(tensor))
        if averages:
            get_ema_multi_avg_fn(self.rate())(averages, weights, self.steps)
        self.steps += 1

    def by_every_name(self) -> dict[str, Tensor]:
        """Return the averages by all names in the state dict: a tied tensor has several."""
        names = {id(tensor): name for name, tensor in _named_tensors(self.model)}
        every = _named_tensors(self.model, remove_duplicate=False)
        return {name: self.values[names[id(tensor)]] for name, tensor in every}

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Swap the EMA into the model within the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Restore unsharded averages, by state dict name, after this number of steps."""
        for name, value in self.values.items():
            if name in state:  # buffers that are not persistent are not
                assign(value, state[name])
        self.steps = steps

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self._current().items():
            average, current = local(self.values[name]), local(tensor)
            kept = average.clone()
            average.copy_(current)
            current.copy_(kept)

    def _current(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in _named_tensors(self.model)}


def _can_be_averaged(value: Tensor) -> bool:
    return value.is_floating_point() and not local(value).isinf().any()


def _named_tensors(model: nn.Module, *, remove_duplicate: bool = True) -> list[tuple[str, Tensor]]:
    return [
        *model.named_parameters(remove_duplicate=remove_duplicate),
        *model.named_buffers(remove_duplicate=remove_duplicate),
    ]
