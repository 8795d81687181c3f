"""The processes that train together."""

from __future__ import annotations

import os
import signal
import threading
import time
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


def end_with_parent(parent: int, grace: float | None = None) -> None:
    """Has this process stopped, as by SIGTERM, when the one that started it has ended.

    Args:
        parent: its number.
        grace: seconds that it is then given to end by itself, before it is made to; None: as long
            as it takes.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)
        if grace is not None:
            time.sleep(grace)
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


_LOOK = 0.5
"""Seconds between two looks at whether the parent is there."""


def end_with_first() -> None:
    """Has a process that Lightning starts beside this one end when this one has.

    It would wait for ever, in a collective, for a first process that was killed. Called in all.
    """
    if int(os.environ.get("LOCAL_RANK") or 0) == 0:
        os.environ[_FIRST] = str(os.getpid())
    elif _FIRST in os.environ:
        end_with_parent(int(os.environ[_FIRST]), grace=_GRACE)


_FIRST = "KAT_FIRST_PROCESS"
"""The environment variable that tells the others its number; no other launcher's have it."""
_GRACE = 30.0
"""Seconds in which a process may end by itself when the first one is gone."""


def is_first_process() -> bool:
    """Whether this process is the one that checks, writes and prints, also before the others start.

    The launchers say by their environment variables which process of how many this is.
    """
    node = int(os.environ.get("GROUP_RANK") or os.environ.get("NODE_RANK") or 0)
    rank: int | None = getattr(rank_zero_only, "rank", None)
    return node == 0 and (rank or 0) == 0
