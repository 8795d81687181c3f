"""``kat verify`` as a user calls it."""

from __future__ import annotations

import json

import pytest
import torch

import kat
from kat.analysis.verify import Backend, present_backends
from tests.cli import commands


def run(*arguments: object) -> int:
    return commands.run("verify", *arguments)


@pytest.mark.slow
def test_everything_right_exits_with_0_and_leaves_table_and_json(tmp_path, capsys):
    data = tmp_path / "verify.json"
    assert run("--no-progress", "--json", data) == 0
    printed = capsys.readouterr().out
    assert printed.strip().splitlines()[-1].endswith("comparisons passed")
    content = json.loads(data.read_text())
    assert content["passed"] is True


def test_a_failure_exits_with_1_and_is_named(monkeypatch, capsys, tmp_path):
    def rounded(x, a, b, form):
        return kat.rational(x, a, b, form=form, impl="reference") * (1 + 1e-5)

    backends = [*present_backends()[0], Backend("rounded", rounded)]
    monkeypatch.setattr("kat.analysis.verify.present_backends", lambda: (backends, {}))
    data = tmp_path / "verify.json"
    assert run("--dtypes", "[float32]", "--json", data) == 1
    printed = capsys.readouterr().out
    assert "FAILED rounded: y" in printed
    assert "comparisons FAILED" in printed
    content = json.loads(data.read_text())
    assert content["passed"] is False
    assert {row["backend"] for row in content["results"] if row["ratio"] > 1} == {"rounded"}


def test_a_choice_of_backends_and_dtypes(tmp_path, capsys):
    data = tmp_path / "verify.json"
    assert run("--backends", "[reference]", "--dtypes", "[float64]", "--json", data) == 0
    rows = json.loads(data.read_text())["results"]
    assert {(row["backend"], row["dtype"]) for row in rows} == {("reference", "float64")}
    for option, value, named in (
        ("--dtypes", "[float8]", "unknown dtype 'float8'"),
        ("--backends", "[gpu]", "the backend gpu is unavailable: there are reference, cpu"),
        ("--backends", "[triton]", "there is no CUDA device"),
    ):
        if value != "[triton]" or not torch.cuda.is_available():
            assert named in commands.refused(capsys, "verify", option, value)
