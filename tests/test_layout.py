"""The layout: imports run one way, importing kat is quiet and cheap, no module hides a name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from kat.training.tasks.registry import TASKS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kat"


def test_imports_run_one_way_and_make_no_circle():
    """As the contracts in pyproject.toml say; a new module needs its place there."""
    assert lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


NAME_A_TASK = {
    "data/dataset.py",
    "data/dense/detection.py",
    "data/dense/segmentation.py",
    "data/naming.py",
    "deploy/export_record.py",
    "models/dense/detector.py",
    "models/dense/upernet.py",
    "models/task.py",
}


def test_only_datasets_models_and_exports_name_a_task():
    """All else asks the declarations of the tasks, so that a new task is a folder."""
    folders = PACKAGE / "training" / "tasks"
    names = "|".join(TASKS)
    for path in PACKAGE.rglob("*.py"):
        named = re.search(f'"({names})"', path.read_text())
        if named and folders not in path.parents:
            assert path.relative_to(PACKAGE).as_posix() in NAME_A_TASK


def _run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )


@pytest.mark.slow
def test_importing_kat_prints_nothing_and_leaves_heavy_modules_alone():
    heavy = (
        "triton", "matplotlib", "sklearn", "jsonargparse", "scipy", "pydantic", "rich",
        "kat.nn.fitting", "kat.models.checkpoints.hub", "kat.models.conversion", "kat.data",
    )  # fmt: skip
    code = f"""
import sys, torch, timm
before = set(sys.modules)  # torch itself may import Triton
import kat
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    result = _run(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_no_module_takes_the_place_of_a_name_of_its_package():
    """The import of a module sets an attribute of its package."""
    for path in PACKAGE.rglob("__init__.py"):
        package = ".".join(path.parent.relative_to(ROOT).parts)
        modules = {found.stem for found in path.parent.glob("*.py")}
        modules |= {found.parent.name for found in path.parent.glob("*/__init__.py")}
        modules.discard("__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.ImportFrom(module=source) if source != package:
                    names = {alias.asname or alias.name for alias in node.names}
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names = {name}
                case _:
                    names = set()
            assert not names & modules, f"{package}: {names & modules}"


def test_pytest_collects_every_file_of_tests():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    patterns = settings["ini_options"]["python_files"]
    for path in (ROOT / "tests").rglob("*.py"):
        if re.search(r"^def test_", path.read_text(), re.MULTILINE):
            assert any(map(path.match, patterns)), path


def test_every_folder_of_modules_is_a_package():
    """setuptools ships the folders with an ``__init__.py``."""
    for path in PACKAGE.rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path
