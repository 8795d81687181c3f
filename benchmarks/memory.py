"""What the benchmarks share to measure memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


def kept_bytes(function: Callable[..., Tensor], *xs: Tensor) -> int:
    """The bytes that a call keeps, without the parameters; each memory counts once."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.data_ptr()] = max(tensor.nbytes, sizes.get(tensor.data_ptr(), 0))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(*xs).sum()
    parameters = function.parameters() if isinstance(function, nn.Module) else ()
    known = {parameter.data_ptr() for parameter in parameters}
    return sum(size for pointer, size in sizes.items() if pointer not in known)


def resident(field: str) -> int:
    """Resident bytes of this process: VmRSS now, VmHWM the most so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Makes VmHWM what VmRSS is (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
