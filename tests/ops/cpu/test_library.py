"""The CPU library: which one is loaded, and when none is."""

from __future__ import annotations

import base64
import hashlib
import shutil

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
        changed.setattr(build, "PREBUILT", build.cached_library()[0])
        changed.setenv("CXX", "/nonexistent/c++")
        kernels.load_again()
        assert kernels.problem() == ""
        changed.setattr(build, "source_hash", lambda: "another")
        kernels.load_again()
        assert "No such file or directory: '/nonexistent/c++'" in kernels.problem()
    kernels.load_again()


def test_a_damaged_library_of_a_wheel_is_not_loaded(tmp_path, monkeypatch):
    """The metadata of a wheel, with the hash of one file, on the path."""
    library = tmp_path / "kat" / "ops" / "cpu" / "_rational_cpu.so"
    library.parent.mkdir(parents=True)
    shutil.copy(build.cached_library()[0], library)
    digest = base64.urlsafe_b64encode(hashlib.sha256(library.read_bytes()).digest()).decode()
    metadata = tmp_path / "kolmogorov_arnold_transformer-0.1.0.dist-info"
    metadata.mkdir()
    record = f"kat/ops/cpu/_rational_cpu.so,sha256={digest.rstrip('=')},1\n"
    (metadata / "RECORD").write_text(record)
    (metadata / "METADATA").write_text("Name: kolmogorov-arnold-transformer\nVersion: 0.1.0\n")
    (tmp_path / "link").symlink_to(tmp_path)  # as an environment may be reached
    monkeypatch.syspath_prepend(tmp_path / "link")
    monkeypatch.setattr(build, "PREBUILT", library)
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    kernels.load_again()
    try:
        assert kernels.problem() == ""
        whole = library.read_bytes()
        library.unlink()  # it is loaded: another file takes its name
        library.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        kernels.load_again()
        assert f"{library} is damaged, so install kat again; the C++ compiler" in kernels.problem()
    finally:
        monkeypatch.undo()
        kernels.load_again()
