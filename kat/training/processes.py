"""The processes that train together."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

Item = TypeVar("Item")


def gather(item: Item) -> list[Item]:
    """What each process gives, in their order; all of them must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [item]
    items: list[Item] = [item] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def any_of(here: bool, device: torch.device) -> bool:
    """Whether it is so in any of the processes; all of them must call it.

    Args:
        here: whether it is in this one.
        device: what this process computes on.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return here
    flag = torch.tensor(here, dtype=torch.int32, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def is_first_process() -> bool:
    """Whether this process is the one that checks, writes and prints, also before the others start.

    The launchers say by their environment variables which process of how many this is.
    """
    node = int(os.environ.get("GROUP_RANK") or os.environ.get("NODE_RANK") or 0)
    rank: int | None = getattr(rank_zero_only, "rank", None)
    return node == 0 and (rank or 0) == 0
