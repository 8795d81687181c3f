"""The CPU library: which one is loaded, and when none is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kat.ops.cpu import build
from tests import kernels
from tests.ops.cpu.fresh_process import ROOT, finish, start, without_library

pytestmark = pytest.mark.slow

try:
    build.find_compiler()
except build.BuildError as error:
    pytest.skip(f"no CPU library to test: {error}", allow_module_level=True)


def test_switched_off_without_warning(tmp_path):
    refused, ran = finish(start(tmp_path, KAT_CPU_KERNEL="off"))
    assert "KAT_CPU_KERNEL=off" in refused
    assert ran == "reference"


def test_unknown_choice_is_named(tmp_path):
    _, warned = without_library(tmp_path, KAT_CPU_KERNEL="fast")
    assert "'fast' is not one of auto, off, baseline, avx2, avx512" in warned


def test_a_library_of_another_source_is_not_used(monkeypatch):
    """Without a compiler there is only the one that is built already."""
    with monkeypatch.context() as changed:
        changed.setattr(build, "PREBUILT", build.cached_library())
        changed.setenv("CXX", "/nonexistent/c++")
        kernels.load_again()
        assert kernels.problem() == ""
        changed.setattr(build, "source_hash", lambda: "another")
        kernels.load_again()
        assert "CXX='/nonexistent/c++' does not exist" in kernels.problem()
    kernels.load_again()


def test_importing_builds_and_loads_nothing(tmp_path):
    code = """
import sys
loaded = []
sys.addaudithook(lambda event, args: loaded.append(str(args)) if "dlopen" in event else None)
import kat, kat.ops
print(*loaded, sep="\\n")
"""
    environment = {**os.environ, "KAT_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True, cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "libtorch" in done.stdout  # which is loaded in the same way
    assert "rational_cpu" not in done.stdout
    assert not list(tmp_path.iterdir())
