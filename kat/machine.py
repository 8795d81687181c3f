"""What this machine gives to a process: its memory, its cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import torch


def memory_bytes(device: torch.device) -> int:
    """What training takes: on a GPU the most that was allocated there, else resident bytes now.

    Resident bytes are those of this process and of the workers that load its images; pages that
    they share count for each.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    workers = [process.pid for process in multiprocessing.active_children()]
    return sum(_resident(pid) for pid in [os.getpid(), *workers] if pid is not None)


def peak_bytes(device: torch.device) -> int:
    """As :func:`memory_bytes`, with the most that this process ever had resident."""
    if device.type == "cuda":
        return memory_bytes(device)
    return max(memory_bytes(device), _most_resident())


def _resident(pid: int) -> int:
    """Resident bytes of a process; where there is no /proc, the most this one had, 0 for others."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return _most_resident() if pid == os.getpid() and sys.platform != "linux" else 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _most_resident() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
