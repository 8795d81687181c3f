"""Facts about the machine: its processor, and the memory and the cores that a process uses."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from contextlib import suppress
from multiprocessing import active_children, current_process
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def processor() -> str:
    """Return the name of the CPU."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", file.read_text() if file.exists() else "", re.M)
    return found[1] if found else platform.processor() or platform.machine()


def memory_bytes(device: torch.device) -> int:
    """Return the memory of training: the GPU's peak, or without a GPU the resident bytes now.

    Resident bytes are counted for this process and for the workers that load its images; pages
    that they share count for each.
    """
    if device.type == "cuda":
        return peak_bytes(device)
    return sum(_resident(p.pid, "VmRSS") for p in (current_process(), *active_children()))


def reset_peak(device: torch.device) -> None:
    """Begin a new peak for :func:`peak_bytes`, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux alone has the file
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Return the peak of this process, without workers: of GPU memory, else of resident bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _resident(os.getpid(), "VmHWM")


def worker_peak_bytes() -> int:
    """Return the sum of the peaks of the workers that run now; shared pages count for each."""
    return sum(_resident(child.pid, "VmHWM") for child in active_children())


def _resident(pid: int | None, entry: str) -> int:
    """Return resident bytes of a process; without /proc, this one's peak, and 0 for others.

    ``ru_maxrss`` is no peak on Linux: it would include what the parent had at the fork.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        if sys.platform != "darwin" or pid != os.getpid():
            return 0
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(rf"^{entry}:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def cores() -> int:
    """Return the cores that this process may use, by its affinity and its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = map(int, (_CGROUP / "cpu.max").read_text().split())
    except (OSError, ValueError):  # there is no quota, or "max 100000"
        return count
    return max(1, min(count, math.ceil(quota / period)))
