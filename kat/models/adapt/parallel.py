"""A bottleneck GR-KAN beside an MLP."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, fx, nn

from kat.errors import InputError
from kat.nn import GRKANLinear, init_grkan_

NAME = "parallel"
"""Of the bottleneck in the module whose output it is added to."""


def _thread() -> int:
    """The thread that calls, since several may; a compiled graph has one."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()


class Parallel(nn.Module):
    """y + W_2 F(W_1 x + b_1) + b_2, x and y input and output of an MLP, W_2 = b_2 = 0 at the start.

    Args:
        widths: d_in, the width of the bottleneck, d_out. F has the largest number of groups up to 8
            that divides the second.
        device, dtype: of the parameters.
    """

    def __init__(
        self, widths: tuple[int, int, int], device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        d_in, width, d_out = widths
        groups = max(count for count in range(1, 9) if width % count == 0)
        self.inputs: dict[int, Tensor] = {}  # of the passes that run, by thread
        self.down = nn.Linear(d_in, width, device=device, dtype=dtype)
        self.up = GRKANLinear(width, d_out, num_groups=groups, device=device, dtype=dtype)
        init_grkan_(self.down, nn.Identity(), "variance_preserving")
        nn.init.zeros_(self.up.fc.weight)
        nn.init.zeros_(self.up.fc.bias)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "inputs": {}}

    def forward(self, x: Tensor) -> Tensor:
        """W_2 F(W_1 x + b_1) + b_2."""
        y: Tensor = self.up(self.down(x))
        return y

    def put(self, first: nn.Module, last: nn.Module) -> None:
        """Puts it beside an MLP, as a child of its last module.

        Args:
            first: gets x.
            last: returns y; runs after ``first``, or is the same module.
        """
        last.add_module(NAME, self.train(last.training))
        # Hooks that are methods belong to the copy, in a copy of the model.
        before = first.register_forward_pre_hook(self._take, with_kwargs=True)
        self.hooks = [before, last.register_forward_hook(self._add)]

    def take_out(self, last: nn.Module) -> None:
        """Takes it out of the last module."""
        for hook in self.hooks:
            hook.remove()
        delattr(last, NAME)

    def _take(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps x until y is there."""
        values = (*args, *kwargs.values())
        if any(isinstance(value, fx.Proxy) for value in values):
            raise InputError(
                "torch.fx.symbolic_trace cannot follow the parallel adapter of this MLP, which is"
                " in hooks; use torch.export or torch.compile"
            )
        self.inputs[_thread()] = next(value for value in values if isinstance(value, Tensor))

    def _add(self, _: nn.Module, args: Any, y: Tensor) -> Tensor:
        x = self.inputs.pop(_thread())
        if x.shape[:-1] != y.shape[:-1]:
            raise InputError(
                f"a parallel adapter maps each token by itself, and its MLP turns {tuple(x.shape)}"
                f" into {tuple(y.shape)}: leave that MLP out of kat.adapt"
            )
        return y + self(x.to(self.down.weight.dtype)).to(y.dtype)
