"""The CPU library: which one is loaded, and when none is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kat.ops.cpu import build
from kat.ops.cpu.library import open_prebuilt
from tests.ops.cpu.fresh_process import ROOT, finish, start, without_library

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
    monkeypatch.setattr(build, "PREBUILT", build.cached_library())
    assert open_prebuilt() is not None
    monkeypatch.setattr(build, "source_hash", lambda: "another")
    assert open_prebuilt() is None


def test_importing_builds_and_loads_nothing(tmp_path):
    code = (
        "import kat; from kat.ops.cpu.library import find_library;"
        " assert find_library.cache_info().misses == 0"
    )
    environment = {**os.environ, "KAT_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)
    assert not list(tmp_path.iterdir())
