"""How fast the training loop is, how long it waits for data, how much memory it takes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.profilers import PassThroughProfiler

_FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""What Lightning calls the action of taking the next batch of the training loader."""


class Work(NamedTuple):
    """What a training loop did in some time.

    Args:
        images: trained on, in all processes.
        batches: of this process.
        seconds: wall time, validation left out.
        waited: the part of ``seconds`` in which this process waited for its loader.
    """

    images: int = 0
    batches: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def since(self, earlier: Work) -> Work:
        """What was done after ``earlier``."""
        return Work(
            self.images - earlier.images,
            self.batches - earlier.batches,
            self.seconds - earlier.seconds,
            self.waited - earlier.waited,
        )

    def after(self, earlier: Work) -> Work:
        """What was done then and before."""
        return Work(
            self.images + earlier.images,
            self.batches + earlier.batches,
            self.seconds + earlier.seconds,
            self.waited + earlier.waited,
        )

    @property
    def images_per_second(self) -> float:
        """images / seconds."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_per_batch(self) -> float:
        """seconds / batches."""
        return self.seconds / self.batches if self.batches > 0 else 0.0

    @property
    def wait_share(self) -> float:
        """waited / seconds."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


class Meter(PassThroughProfiler):
    """Adds up the work of a training loop by the wall clock; the device is never waited for.

    Lightning tells a profiler when it takes a batch of the loader, so that the meter must be the
    Trainer's. The rest it is told by :class:`kat.training.progress.SpeedLog`.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.clock = clock
        self.work = Work()
        self._since: float | None = None
        self._asked = 0.0

    def start(self, action_name: str) -> None:
        """Notes when a batch is asked for."""
        if action_name == _FETCH:
            self._asked = self.clock()

    def stop(self, action_name: str) -> None:
        """Adds the time until it was there, if the meter runs."""
        if action_name == _FETCH and self._since is not None:
            waited = self.work.waited + self.clock() - self._asked
            self.work = self.work._replace(waited=waited)

    def resume(self) -> None:
        """Lets the clock run."""
        if self._since is None:
            self._since = self.clock()

    def pause(self) -> None:
        """Stops the clock until it is resumed."""
        self.read()
        self._since = None

    def count(self, images: int) -> None:
        """Adds a batch that was trained on."""
        work = self.work
        self.work = work._replace(images=work.images + images, batches=work.batches + 1)

    def read(self) -> Work:
        """All work so far."""
        if self._since is not None:
            now = self.clock()
            self.work = self.work._replace(seconds=self.work.seconds + now - self._since)
            self._since = now
        return self.work


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
