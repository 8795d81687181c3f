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
    """The peak of this process alone: on a GPU what was allocated there, else resident bytes."""
    return memory_bytes(device) if device.type == "cuda" else _most_resident(os.getpid())


def worker_peak_bytes() -> int:
    """The sum of the peaks of the workers that run now; pages that they share count for each."""
    workers = [process.pid for process in multiprocessing.active_children()]
    return sum(_most_resident(pid) for pid in workers if pid is not None)


def _resident(pid: int) -> int:
    """Resident bytes of a process; where there is no /proc, the most this one had, 0 for others."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return _most_resident(pid)
    return pages * os.sysconf("SC_PAGE_SIZE")


def _most_resident(pid: int) -> int:
    """The peak of a process; where there is no /proc, 0 for other processes.

    ``ru_maxrss`` alone would include what the parent of this process had at the fork.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return _most_used() if pid == os.getpid() else 0


def _most_used() -> int:
    """The peak of this process, by ``getrusage``."""
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
