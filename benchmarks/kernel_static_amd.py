"""Compiles the GPU kernels for an AMD MI300 (gfx942) without one: vector registers and spills.

Whether the results are right there, only such a GPU can tell. Needs torch and triton.
"""

from __future__ import annotations

import os
import re

os.environ.pop("TRITON_INTERPRET", None)  # with it there is nothing to compile

import torch

torch.version.hip = "6.4"  # before Triton's kernels are imported: they look at it once

import kernel_static as static  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

from kat.ops.triton import launch, memory  # noqa: E402


def main() -> None:
    """Compiles each kernel in two dtypes and both forms; prints vector registers and spills."""
    assert not memory.NVIDIA.value
    target = GPUTarget("hip", "gfx942", 64)
    for name, kernel in static.KERNELS.items():
        for dtype in (torch.float32, torch.bfloat16):
            for form in "AB":
                share = static.shared(3152, 768, 8, dtype.itemsize, launch.PROGRAMS)
                constants = static.constants_of(name, share, (5, 4), 8, form)
                constants["APART"] = name.startswith("gated")
                text = static.compiled(kernel, constants, dtype, target).asm["amdgcn"]
                counts = dict(re.findall(r"\.(vgpr_count|vgpr_spill_count):\s+(\d+)", text))
                print(name, dtype, form, counts, flush=True)
                assert counts["vgpr_spill_count"] == "0", counts


if __name__ == "__main__":
    main()
