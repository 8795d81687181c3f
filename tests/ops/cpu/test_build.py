"""The build of the CPU library: compiled once, cached, and left out where it fails."""

from __future__ import annotations

import os
import shutil

import pytest

from kat.ops.cpu import build
from tests.ops.cpu.fresh_process import finish, start, without_library

pytestmark = pytest.mark.slow

try:
    build.find_compiler()
except build.BuildError as error:
    pytest.skip(f"no CPU library to test: {error}", allow_module_level=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What two processes that start at once build in cache/, and print, by a quick compiler.

    It does not optimize, and writes its calls to a file.
    """
    folder = tmp_path_factory.mktemp("built")
    compiler, cache = folder / "counting-compiler", folder / "cache"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\nexec c++ "$@" -O0\n')
    compiler.chmod(0o755)
    processes = [start(cache, CXX=str(compiler)) for _ in range(2)]
    return folder, [(*process.communicate(timeout=300), process) for process in processes]


def test_processes_that_start_at_once_build_once(built):
    folder, processes = built
    compiler, cache = str(folder / "counting-compiler"), folder / "cache"
    lines = []
    for output, errors, process in processes:
        assert (process.returncode, output) == (0, "kernel\n"), errors
        lines += [line for line in errors.splitlines() if line.startswith("kat: compiling the CPU")]
    assert len(lines) == 1
    calls = (folder / "calls").read_text().splitlines()
    assert len([call for call in calls if "-shared" in call]) == 1
    assert len([call for call in calls if "-DKAT_SET=" in call]) == 1  # no other instruction set
    assert sorted(path.suffix for path in cache.iterdir()) == [".so"]
    assert finish(start(cache, CXX=compiler)) == ["kernel"]
    assert (folder / "calls").read_text().count("-shared") == 1


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


@pytest.mark.parametrize("mode", [0o1777, 0o720])
def test_a_cache_that_others_can_write_is_refused(builds, own_cache, mode):
    path = build.cached_library()
    own_cache.chmod(mode)
    with pytest.raises(build.BuildError, match=f"other users can change the files in {own_cache}"):
        build.cached_library()
    assert builds() == 1
    own_cache.chmod(0o755)
    assert build.cached_library() == path
    assert builds() == 1


def test_a_cache_of_another_user_is_refused_but_not_that_of_root(builds, own_cache, monkeypatch):
    path = build.cached_library()
    owner = own_cache.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    if owner == 0:
        assert build.cached_library() == path
        os.chown(own_cache, 54321, -1)
    with pytest.raises(build.BuildError, match="set KAT_CACHE_DIR to a folder that only you"):
        build.cached_library()
    assert builds() == 1


@pytest.mark.release
def test_a_damaged_library_is_named_and_built_again_once_it_is_deleted(built, tmp_path):
    folder, _ = built
    cache = shutil.copytree(folder / "cache", tmp_path / "cache")
    compiler = str(folder / "counting-compiler")
    (library,) = cache.glob("*.so")
    library.write_bytes(library.read_bytes()[:8])
    refused, _ = without_library(cache, CXX=compiler)
    assert f"{library}: " in refused
    assert "delete this file" in refused
    library.unlink()
    assert finish(start(cache, CXX=compiler)) == ["kernel"]


@pytest.mark.release
def test_one_warning_says_why_there_is_no_library_and_what_to_do(tmp_path):
    refused, warned = without_library(tmp_path, CXX="/nonexistent/c++")
    assert "No such file or directory: '/nonexistent/c++'" in refused
    assert "set CXX to one" in warned
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    refused, warned = without_library(tmp_path, CXX=str(broken))
    assert "failed with exit code 1" in refused
    assert "set CXX to a working compiler. no such luck" in warned
    assert not list(tmp_path.glob("*.so"))
    _, warned = without_library(broken)  # a file in the place of the cache
    assert "set KAT_CACHE_DIR" in warned
