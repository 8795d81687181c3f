"""What this machine gives to a process: its memory, its cores."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


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
    """The cores that this process may use: of its affinity, and of the quota of its container."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """The cores' worth of time that the control group of this process gets; infinite without one.

    Version 2 has it in one file, version 1 in two. In a container its own group is the root.
    """
    try:
        content = (_CGROUP / "cpu.max").read_text().split()
    except OSError:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        try:
            content = [(_CGROUP / "cpu" / name).read_text().strip() for name in names]
        except OSError:
            return math.inf
    try:
        quota, period = map(float, content)
    except ValueError:  # "max 100000"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
