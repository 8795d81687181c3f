"""A plugin of pytest: the tests of the interpreted kernels run the compiled ones, emulated.

pytest -p tests.ops.triton.emulated tests/ops/triton/interpreted.py -m "release or not release"
"""

from __future__ import annotations

from kat.ops.triton import launch
from tests.ptx.launch import install

EMULATOR = install()
launch.INTERPRETED = True  # tensors are on the CPU
