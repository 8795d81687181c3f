"""GR-KAN layers at inference on a CPU, a block of rows at a time.

F(x) and the hidden layer of an MLP are larger than the caches of a processor, and each is written
once and read once. Here they exist for one block of rows at a time, in memory that is used again
for the next block and so stays in the caches.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from kat.nn.plain import is_plain
from kat.nn.rational import GroupRational
from kat.ops.cpu import backend as cpu
from kat.ops.torch_internals import in_function_transform, is_plain_eager, is_profiling

Layers = Sequence[tuple[GroupRational | None, nn.Linear]]
"""Rationals, each with the linear map after it; None: no rational."""

_LEAST_ROWS = 32
_LEVEL_2 = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
_UNKNOWN_CACHE = 1 << 20
"""The size that is assumed where the system does not tell that of the second-level cache."""


def block_rows(width: int, itemsize: int) -> int:
    """The number of rows in a block: as many as half of the second-level caches hold.

    Args:
        width: of the widest layer.
        itemsize: bytes of a value.
    """
    caches = second_level_cache() * torch.get_num_threads()
    return max(_LEAST_ROWS, caches // (2 * width * itemsize))


@functools.cache
def second_level_cache() -> int:
    """The size of one core's second-level cache in bytes, as Linux tells it."""
    try:
        size = int(_LEVEL_2.read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return _UNKNOWN_CACHE
    return size


def can_run_in_blocks(x: Tensor, layers: Layers) -> bool:
    """Whether :func:`run_in_blocks` gives what the modules give, one after the other.

    It does on the CPU for plain modules and tensors, where no gradient is recorded, nothing
    observes or rewrites operations, and the kernel takes the arguments.
    """
    if torch.is_grad_enabled() or not is_plain_eager(x) or x.device.type != "cpu":
        return False
    if is_profiling() or in_function_transform():
        return False
    widths = [x.shape[-1] if x.dim() else 0, *(linear.in_features for _, linear in layers)]
    ends = [linear.out_features for _, linear in layers[:-1]]
    return (
        widths[0] == widths[1]
        and widths[2:] == ends
        and all(_runs(x, activation, linear) for activation, linear in layers)
    )


def _runs(x: Tensor, activation: GroupRational | None, linear: nn.Linear) -> bool:
    if not is_plain(activation, linear) or linear.weight.device != x.device:
        return False
    if linear.weight.dtype != x.dtype and not torch.is_autocast_enabled("cpu"):
        return False
    if activation is None:
        return True
    parts = (activation.weight_numerator, activation.weight_denominator)
    groups = max(len(part) for part in parts)
    return linear.in_features % groups == 0 and cpu.supports(x, *parts)


def run_in_blocks(x: Tensor, layers: Layers) -> Tensor:
    """y = W_k F_k(... W_1 F_1(x) + b_1 ...) + b_k, for what :func:`can_run_in_blocks`.

    Args:
        x: (..., d_in).
        layers: in their order.

    Returns:
        y, (..., d_out), in the dtype of autocast if that is active.
    """
    autocasts = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocasts else x.dtype
    maps = [_Map(activation, linear, dtype) for activation, linear in layers]
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = torch.empty(len(rows), maps[-1].width, dtype=dtype)
    widest = max(x.shape[-1], *(each.width for each in maps))
    size = min(block_rows(widest, x.element_size()), max(len(rows), 1))
    inputs = torch.empty(size, x.shape[-1], dtype=x.dtype)
    hidden = [torch.empty(size, each.width, dtype=dtype) for each in maps[:-1]]
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        count = len(block)
        outputs = [*(each[:count] for each in hidden), y[start : start + count]]
        spaces = [inputs[:count], *outputs[:-1]]  # F(x) overwrites the hidden layers, not x
        for each, space, output in zip(maps, spaces, outputs, strict=True):
            block = each.into(output, block, space)
    return y.view(*x.shape[:-1], y.shape[-1])


class _Map:
    """W F(x) + bias with the weights of one call, in the dtype of its products."""

    def __init__(
        self, activation: GroupRational | None, linear: nn.Linear, dtype: torch.dtype
    ) -> None:
        self.activation = activation
        self.width = linear.out_features
        self.dtype = dtype
        self.weight = linear.weight.to(dtype).T
        self.bias = None if linear.bias is None else linear.bias.to(dtype)

    def into(self, output: Tensor, x: Tensor, space: Tensor) -> Tensor:
        """Computes a block of the output; F(x) is written into ``space``, which may be x."""
        if self.activation is not None:
            act = self.activation
            cpu.forward_into(space, x, act.weight_numerator, act.weight_denominator, act.form)
            x = space
        x = x.to(self.dtype)
        if self.bias is None:
            return torch.mm(x, self.weight, out=output)
        return torch.addmm(self.bias, x, self.weight, out=output)
