"""The CPU in the place of torch.cuda, so that what a GPU runs can be tried without one."""

from __future__ import annotations

import time
from types import SimpleNamespace

import torch

from kat import machine

CPU = torch.device("cpu")


class StandIn:
    """The functions of ``torch.cuda`` that the benchmarks call, of the CPU.

    What is allocated is what is resident, and its peak that of the whole process.
    """

    class Event:
        """A moment; what came before it is done."""

        def __init__(self, enable_timing: bool) -> None:
            self.seconds = 0.0

        def record(self) -> None:
            self.seconds = time.perf_counter()

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: StandIn.Event) -> float:
            return 1e3 * (end.seconds - self.seconds)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_name(self) -> str:
        return f"stand-in ({machine.processor()})"

    def get_device_capability(self) -> tuple[int, int]:
        return 9, 0  # an H100's, for which code is compiled

    def get_device_properties(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(total_memory=0, multi_processor_count=machine.cores())

    def synchronize(self) -> None: ...

    def reset_peak_memory_stats(self) -> None: ...

    def memory_allocated(self) -> int:
        return machine.memory_bytes(CPU)

    def max_memory_allocated(self) -> int:
        return machine.peak_bytes(CPU) + 1  # more than nothing above what is resident
