"""The build of the CPU library: compiled once, cached, and left out where it fails."""

from __future__ import annotations

import os

import pytest

from kat.ops.cpu import build
from tests.ops.cpu.fresh_process import finish, start, without_library

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
    assert len([call for call in calls if "-shared" in call]) == 1
    assert len([call for call in calls if "-DKAT_SET=" in call]) == 1  # no other instruction set
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]
    assert finish(start(cache, CXX=str(compiler))) == ["kernel"]
    assert (tmp_path / "calls").read_text().count("-shared") == 1


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """A compiler that writes a text; returns how often it has been called."""
    compiler, log = tmp_path / "compiler", tmp_path / "log"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit\nfor last; do :; done\n'
        f'[ "$1" = -shared ] && echo built >> {log}\necho library > "$last"\n'
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
