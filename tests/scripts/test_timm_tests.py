"""timm's tests on kat's classifiers: which of them run, and how they are counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from timm import create_model, list_models

NON_STD = ["vit_*", "deit*"]


@pytest.mark.parametrize("name", list_models(exclude_filters=["*_7b_*"]))
def test_forward(name):
    assert create_model(name, num_classes=3).num_classes == 3


@pytest.mark.parametrize("name", list_models(filter=NON_STD, include_tags=True))
def test_non_std(name):
    assert not name, "named"


@pytest.mark.parametrize("name", list_models(exclude_filters=NON_STD))
def test_std(name):
    raise AssertionError


@pytest.mark.parametrize("name", list_models())
def test_torchscript(name):
    raise AssertionError
"""


@pytest.mark.release
def test_kats_classifiers_run_as_vits_and_scripting_is_left_out(tmp_path):
    (tmp_path / "test_models.py").write_text(TESTS)
    command = [sys.executable, ROOT / "scripts/timm_tests.py", tmp_path / "test_models.py"]
    command += ["--models", "kat_micro_patch*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    table = done.stdout.partition("models: ")[2].splitlines()
    assert table[0].split(", ")[0] == "kat_micro_patch2_8"
    rows = [line.split() for line in table[2:4]]
    assert rows == [["test_forward", "4", "0", "0"], ["test_non_std", "0", "4", "0"]]
    assert table[4].startswith("test_non_std [kat_micro_patch2_8]: AssertionError: named")
