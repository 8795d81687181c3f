"""Precision of the forward and backward passes: autocast and loss scaling."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp import GradScaler

_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
NAMES = ("32-true", "bf16-mixed", "16-mixed", "64-true")


class Precision:
    """One of :data:`NAMES` on a device.

    ``*-true`` is the dtype of the weights and the images. ``*-mixed`` keeps float32 weights and
    runs the forward pass under ``torch.autocast``; ``16-mixed`` multiplies the loss by a scale, so
    that small gradients stay above float16's smallest number.

    Args:
        name: one of :data:`NAMES`.
        device: what the passes run on.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype = torch.float64 if name == "64-true" else torch.float32
        self.device = device
        self.autocast_dtype = _AUTOCAST.get(name)
        self.scaler = GradScaler(device.type, enabled=name == "16-mixed")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which to run the forward pass and compute the loss."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def loss_scale(self) -> float:
        """The factor of the loss in the backward pass."""
        return float(self.scaler.get_scale())

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss_scale * loss``."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the loss scale, before they are clipped or inspected."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the step, unless a scaled gradient is not finite, and adjust the scale."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the loss scaler."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; a state of another precision is ignored."""
        if state:
            self.scaler.load_state_dict(state)
