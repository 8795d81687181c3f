"""The package as it is built: what a wheel holds, and its tag, with and without a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kat
from kat.ops.cpu import build

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
ADDRESS = "https://example.org/kat"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The sources alone, with nothing built in them."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 is not installed")
    folder = tmp_path_factory.mktemp("package") / "source"
    shutil.copytree(ROOT / "kat", folder / "kat", ignore=shutil.ignore_patterns("*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kat_command.py"):
        shutil.copy(ROOT / name, folder)
    project = (folder / "pyproject.toml").read_text()
    address = f'[project.urls]\nRepository = "{ADDRESS}"\n'
    (folder / "pyproject.toml").write_text(project.replace("[project.urls]\n", address))
    return folder


def wheel_of(source: Path, folder: Path, **environment: str) -> tuple[Path, set[str]]:
    """Builds a wheel as pip does, and returns its path and the names of its files."""
    copy = shutil.copytree(source, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", str(folder), str(copy)],
        check=True, env={**os.environ, **environment},
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    return wheel, set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_with_the_library_is_of_this_platform(source, tmp_path):
    """The compiler is a quick one: what the library computes is tested elsewhere."""
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\necho library > "$last"\n')
    compiler.chmod(0o755)
    wheel, names = wheel_of(source, tmp_path, CXX=str(compiler))
    assert "kat/ops/cpu/_rational_cpu.so" in names
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    metadata = zipfile.ZipFile(wheel).read(name).decode()
    links = re.findall(r"\]\(([^)]+)\)", metadata)
    assert len(links) >= 15
    assert not [link for link in links if not link.startswith("https://")]
    for name in ("light", "dark"):
        place = f"{ADDRESS}/raw/v{kat.__version__}/docs/images/learning-{name}.svg"
        assert f'="{place}"' in metadata
    assert f"]({ADDRESS}/blob/v{kat.__version__}/docs/training.md)" in metadata


@pytest.mark.parametrize("compiler", ["broken", "missing"])
@pytest.mark.release
def test_a_wheel_without_the_library_is_of_any_platform(compiler, source, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    wheel, names = wheel_of(source, tmp_path, CXX=str(tmp_path / compiler))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert {f"kat/ops/cpu/csrc/{source}" for source in build.SOURCES} <= names
    assert {"kat/recipes/digits.yaml", "kat/nn/presets.json", "kat/py.typed"} <= names
    assert "kat/models/trained/digits/model.safetensors" in names
    assert not [name for name in names if name.endswith(".so")]
