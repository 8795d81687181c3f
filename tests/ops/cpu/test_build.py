"""How the CPU kernel comes about: compiled once, cached, and done without where it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kat.ops.cpu import build as cpu_build
from tests import kernels

if not kernels.has_compiler():
    pytest.skip("no CPU kernel to test: there is no C++ compiler", allow_module_level=True)

ROOT = Path(__file__).parents[3]

SCRIPT = """
import warnings, torch, kat
x = torch.linspace(-3, 3, 64).reshape(4, 16)
a, b = torch.linspace(-1, 1, 6)[None], torch.linspace(-0.5, 1, 32).reshape(8, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    y = kat.rational(x, a, b)
    kat.rational(x.requires_grad_(), a, b).sum().backward()
torch.testing.assert_close(y, kat.rational(x, a, b, impl="reference").detach())
serving = "kernel"
try:
    kat.rational(x, a, b, impl="cpu")
except RuntimeError as error:
    print("refused:", error)
    serving = "reference"
for warning in caught:
    print("warned:", warning.message)
print(serving)
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    """A fresh process that must build, since its cache is its own and nothing is prebuilt."""
    none = "from kat.ops.cpu import build\nbuild.PREBUILT = build.Path('none')\n"
    return subprocess.Popen(
        [sys.executable, "-c", none + SCRIPT],
        env={**os.environ, "KAT_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.splitlines()


def test_processes_that_start_at_once_build_once(tmp_path):
    compiler = tmp_path / "counting-compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec c++ "$@" -O0\n')
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    processes = [start(cache, CXX=str(compiler)) for _ in range(2)]
    for process in processes:
        assert finish(process) == ["kernel"]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sum("-shared" in call for call in calls) == 1
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]
    assert finish(start(cache, CXX=str(compiler))) == ["kernel"]
    assert (tmp_path / "calls").read_text().count("-shared") == 1


def without_kernel(cache: Path, **environment: str) -> tuple[str, str]:
    """The refusal and the one warning of a process that has to do without the kernel."""
    refused, warned, serving = finish(start(cache, **environment))
    assert serving == "reference"
    return refused, warned


def test_without_compiler_one_warning_says_what_to_do(tmp_path):
    refused, warned = without_kernel(tmp_path, CXX="/nonexistent/c++")
    assert "CXX names '/nonexistent/c++', which is not there" in refused
    assert "set it to a C++ compiler" in warned
    refused, warned = without_kernel(tmp_path, PATH="/nonexistent", CXX="")
    assert "install g++ or clang++" in warned


def test_broken_compiler(tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    broken.chmod(0o755)
    refused, warned = without_kernel(tmp_path, CXX=str(broken))
    assert "failed with exit code 1" in refused
    assert "set CXX to a compiler that works. no such luck" in warned
    assert not list(tmp_path.glob("*.so"))


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    _, warned = without_kernel(tmp_path / "file")
    assert "set KAT_CACHE_DIR" in warned


def test_switched_off_without_warning(tmp_path):
    refused, serving = finish(start(tmp_path, KAT_CPU_KERNEL="off"))
    assert "KAT_CPU_KERNEL=off" in refused
    assert serving == "reference"


def test_unknown_choice_is_named(tmp_path):
    _, warned = without_kernel(tmp_path, KAT_CPU_KERNEL="fast")
    assert "'fast' is none of auto, off, baseline, avx2, avx512" in warned


def test_a_library_of_another_source_is_not_used(monkeypatch):
    """Without a compiler there is none but the one that is built already."""
    with monkeypatch.context() as changed:
        changed.setattr(cpu_build, "PREBUILT", cpu_build.cached_library())
        changed.setenv("CXX", "/nonexistent/c++")
        kernels.load_again()
        assert kernels.problem() == ""
        changed.setattr(cpu_build, "source_hash", lambda: "another")
        kernels.load_again()
        assert "CXX names '/nonexistent/c++'" in kernels.problem()
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


def test_installs_without_the_kernel_where_the_compiler_is_broken(tmp_path):
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    source = tmp_path / "source"
    for name in ("kat", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so"))
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
    assert "kat/ops/cpu/rational_cpu.cpp" in names
    assert "kat/recipes/digits.yaml" in names
    assert not [name for name in names if name.endswith(".so")]
