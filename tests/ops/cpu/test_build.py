"""The build of the CPU library: compiled once, cached, and left out where it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from kat.ops.cpu import build
from tests.ops.cpu.fresh_process import ROOT, finish, start, without_library

pytestmark = pytest.mark.slow

try:
    build.find_compiler()
except build.BuildError as error:
    pytest.skip(f"no CPU library to test: {error}", allow_module_level=True)


def test_processes_that_start_at_once_build_once(tmp_path):
    compiler = tmp_path / "counting-compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec c++ "$@" -O0\n')
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    processes = [start(cache, CXX=str(compiler)) for _ in range(2)]
    lines = []
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert (process.returncode, output) == (0, "kernel\n"), errors
        lines += [line for line in errors.splitlines() if line.startswith("kat: compiling the CPU")]
    assert len(lines) == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    (call,) = (call for call in calls if "-shared" in call)
    assert any(f"-DKAT_INSTRUCTION_SETS={1 << i}" in call for i in range(3))  # no other one
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]
    assert finish(start(cache, CXX=str(compiler))) == ["kernel"]
    assert (tmp_path / "calls").read_text().count("-shared") == 1


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """A compiler that writes a text; returns how often it has been called."""
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit\nfor last; do :; done\n'
        f'echo built >> {log}\necho library > "$last"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    return lambda: log.read_text().count("built")


def test_a_library_that_is_damaged_or_that_others_may_write_is_built_again(builds, own_cache):
    path = build.cached_library()
    assert build.cached_library() == path
    assert builds() == 1
    path.write_text("li")
    assert build.cached_library() == path
    assert builds() == 2
    path.chmod(0o775)
    assert build.cached_library() == path
    assert builds() == 3
    assert path.read_text() == "library\n"
    assert sorted(one.suffix for one in own_cache.iterdir()) == [".lock", ".so"]


@pytest.mark.skipif(os.name != "posix", reason="needs owners of files")
def test_users_who_share_a_cache_have_a_library_each(builds, own_cache, monkeypatch):
    first = os.getuid() or 12345  # what belongs to root is trusted
    monkeypatch.setattr(os, "getuid", lambda: first)
    path = build.cached_library()
    os.chown(path, first, -1)
    monkeypatch.setattr(os, "getuid", lambda: first + 1)
    other = build.cached_library()
    assert other != path
    assert path.exists()
    assert builds() == 2


def test_without_compiler_one_warning_says_what_to_do(tmp_path):
    refused, warned = without_library(tmp_path, CXX="/nonexistent/c++")
    assert "CXX='/nonexistent/c++' does not exist" in refused
    assert "set it to a C++ compiler" in warned
    refused, warned = without_library(tmp_path, PATH="/nonexistent", CXX="")
    assert "install g++ or clang++" in warned


def test_broken_compiler(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    refused, warned = without_library(tmp_path, CXX=str(broken))
    assert "failed with exit code 1" in refused
    assert "set CXX to a working compiler. no such luck" in warned
    assert not list(tmp_path.glob("*.so"))


def test_a_cache_that_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    _, warned = without_library(tmp_path / "file")
    assert "set KAT_CACHE_DIR" in warned


def test_installs_without_the_kernel_where_the_compiler_is_broken(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    source = tmp_path / "source"
    shutil.copytree(ROOT / "kat", source / "kat", ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kat_command.py"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(source)],
        check=True,
        env={**os.environ, "CXX": str(broken)},
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"kat/ops/cpu/csrc/{source}" for source in build.SOURCES} <= set(names)
    assert "kat/recipes/digits.yaml" in names
    assert not [name for name in names if name.endswith(".so")]
