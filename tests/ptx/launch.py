"""Run what Triton launches on the emulator: a driver of Triton whose GPU is :class:`Machine`.

Triton compiles and launches as it does on a GPU of compute capability 9.0; tensors are on the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tests.ptx.machine import Launch, Machine
from tests.ptx.memory import GlobalMemory
from tests.ptx.parser import Kernel, parse

AT_ONCE = 32
"""Blocks that run side by side."""


@dataclass
class Emulator:
    """A driver of Triton.

    Attributes:
        launches: all so far.
        arch: compute capability, times ten.
        registers: of a thread, as a GPU would report them of each kernel that it loads.
        chosen: the blocks of a grid to run; all if None.
        order: draws the order of the blocks.
    """

    launches: list[Launch] = field(default_factory=list)
    arch: int = 90
    registers: int = 64
    chosen: Callable[[int], Sequence[int]] | None = None
    order: np.random.Generator = field(default_factory=np.random.default_rng)
    _ptx: Path = Path()

    @property
    def utils(self) -> Emulator:
        return self

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132}

    def note_files(self, module: Any, function: Any, name: str, files: Any, digest: str) -> None:
        """A hook of Triton: the files of the kernel that it loads next."""
        self._ptx = next(Path(path) for file, path in files.items() if file.endswith(".ptx"))

    def load_binary(self, name: str, *_: Any) -> tuple[Any, Kernel, int, int, int]:
        """The module, the function, registers, spills and the most threads of a block."""
        return name, parse(self._ptx.read_text()), self.registers, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        """The function that launches a kernel."""

        def launch(grid: int, y: int, z: int, stream: Any, kernel: Kernel, *rest: Any) -> None:
            assert y == z == 1
            named = zip(source.signature.items(), rest[4:], strict=True)
            values = {name: value for (name, kind), value in named if kind != "constexpr"}
            self.run(kernel, grid, values, 32 * metadata.num_warps, metadata.shared)

        return launch

    def run(
        self, kernel: Kernel, grid: int, values: dict[str, Any], threads: int, shared: int
    ) -> Launch:
        """Run a kernel; ``values`` are its tensors and integers in order."""
        tensors = {name: v for name, v in values.items() if isinstance(v, torch.Tensor)}
        numbers = [v.data_ptr() if isinstance(v, torch.Tensor) else int(v) for v in values.values()]
        scratch = [0] * (len(kernel.parameters) - len(numbers))
        arguments = dict(zip(kernel.parameters, numbers + scratch, strict=True))
        launch = Launch(kernel, arguments, GlobalMemory(tensors), grid, threads, shared)
        blocks = np.array(range(grid) if self.chosen is None else self.chosen(grid))
        self.order.shuffle(blocks)
        for first in range(0, len(blocks), AT_ONCE):
            Machine(launch, blocks[first : first + AT_ONCE]).run()
        self.launches.append(launch)
        return launch


def install(**settings: Any) -> Emulator:
    """From now on Triton launches the kernels of this process on the emulator.

    They are compared with the reference only where ``KAT_GPU_CHECK`` asks for it.
    """
    os.environ.setdefault("KAT_GPU_CHECK", "off")
    emulator = Emulator(**settings)
    driver.set_active(emulator)
    knobs.runtime.kernel_load_start_hook = emulator.note_files
    return emulator
