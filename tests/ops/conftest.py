"""What tests of several operators share."""

from __future__ import annotations

import pytest

from kat.ops.cpu.library import INSTRUCTION_SETS
from tests import kernels


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    """Runs the test with each instruction set that the processor supports."""
    with monkeypatch.context() as changed:
        changed.setenv("KAT_CPU_KERNEL", request.param)
        kernels.load_again()
        problem = kernels.problem()
        if "but this processor supports" in problem:
            pytest.skip(problem)
        assert not problem
        yield request.param
    kernels.load_again()
