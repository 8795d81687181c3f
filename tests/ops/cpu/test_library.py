"""The CPU library: which one is loaded, and when none is."""

from __future__ import annotations

import pytest

from kat.ops.cpu import build
from tests import kernels
from tests.ops.cpu.fresh_process import finish, start, without_library

pytestmark = pytest.mark.slow

try:
    build.find_compiler()
except build.BuildError as error:
    pytest.skip(f"no CPU library to test: {error}", allow_module_level=True)


def test_it_is_switched_off_without_warning_and_an_unknown_choice_is_named(tmp_path):
    refused, ran = finish(start(tmp_path, KAT_CPU_KERNEL="off"))
    assert "KAT_CPU_KERNEL=off" in refused
    assert ran == "reference"
    _, warned = without_library(tmp_path, KAT_CPU_KERNEL="fast")
    assert "'fast' is not one of auto, off, baseline, avx2, avx512" in warned


def test_a_library_of_another_source_is_not_used(monkeypatch):
    """Without a compiler there is only the one that is built already."""
    with monkeypatch.context() as changed:
        changed.setattr(build, "PREBUILT", build.cached_library(1))
        changed.setenv("KAT_CPU_KERNEL", "baseline")
        changed.setenv("CXX", "/nonexistent/c++")
        kernels.load_again()
        assert kernels.problem() == ""
        changed.setattr(build, "source_hash", lambda: "another")
        kernels.load_again()
        assert "No such file or directory: '/nonexistent/c++'" in kernels.problem()
    kernels.load_again()
