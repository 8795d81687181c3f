"""Threads and backends of the tests."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch

from kat.ops.cpu.library import Library, find_library

# The tests are small: threads that wait for each other cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Where the CPU kernel is unavailable, its own tests say so; the others run on the reference without
# its warning.
if not isinstance(find_library(), Library):
    os.environ["KAT_CPU_KERNEL"] = "off"


@pytest.fixture(scope="session")
def script():
    """Imports a module of scripts/ by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "scripts")
        yield importlib.import_module
