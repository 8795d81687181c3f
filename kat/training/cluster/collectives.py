"""Values that the processes of a run exchange; without a group, a process asks itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kat.training.cluster.parallel import is_fsdp, local

Item = TypeVar("Item")


def gather(item: Item) -> list[Item]:
    """Return the items of all ranks, in their order; a collective."""
    if not dist.is_initialized():
        return [item]
    items: list[Item] = [item] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def broadcast(item: Item) -> Item:
    """Return the item of rank 0; a collective."""
    if not dist.is_initialized():
        return item
    items = [item]
    dist.broadcast_object_list(items)
    return items[0]


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give all ranks the buffers of rank 0, which checkpoints keep; a collective.

    A rank's own statistics of a batch norm would be lost in a resumed run.
    """
    if not dist.is_initialized():
        return
    buffers: dict[torch.dtype, list[Tensor]] = {}
    for buffer in map(local, model.buffers()):
        buffers.setdefault(buffer.dtype, []).append(buffer)
    for group in buffers.values():  # one message a dtype
        values = torch.cat([buffer.reshape(-1) for buffer in group])
        dist.broadcast(values, 0)
        parts = values.split([buffer.numel() for buffer in group])
        for buffer, part in zip(group, parts, strict=True):
            buffer.copy_(part.view_as(buffer))


def any_of(here: bool, device: torch.device) -> bool:
    """Return True if a condition holds ``here`` or in any other rank; a collective."""
    if not dist.is_initialized():
        return here
    flag = torch.tensor(here, dtype=torch.int32, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


@contextmanager
def in_step(model: nn.Module, device: torch.device, blank: Callable[[], object]) -> Iterator[None]:
    """Make all ranks run a sharded model equally often within the context.

    Each forward pass gathers the weights of all ranks, which may have different numbers of images.
    So a rank that wants a pass says so first, and one that has no more calls ``blank``, which runs
    the model without using its output.
    """
    if not is_fsdp(model):
        yield
        return

    def announce(module: nn.Module, inputs: object) -> None:
        any_of(True, device)

    handle = model.register_forward_pre_hook(announce, prepend=True)  # before it gathers weights
    try:
        yield
    finally:
        handle.remove()
    while any_of(False, device):
        blank()
