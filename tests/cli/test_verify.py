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


def test_everything_right_exits_with_0_and_leaves_table_and_json(tmp_path, capsys):
    data = tmp_path / "verify.json"
    assert run("--no-progress", "--json", data) == 0
    printed = capsys.readouterr().out
    for part in ("reference", "float32", "bfloat16", "float16", "float64"):
        assert part in printed
    assert printed.strip().splitlines()[-1].endswith("comparisons passed")
    content = json.loads(data.read_text())
    assert content["passed"] is True
    assert {row["quantity"] for row in content["results"]} == {"y", "dx", "da", "db"}


def test_a_failure_exits_with_1_and_is_named(monkeypatch, capsys, tmp_path):
    def rounded(x, a, b, form):
        return kat.rational(x, a, b, form=form, impl="reference") * (1 + 1e-5)

    backends = [*present_backends()[0], Backend("rounded", rounded)]
    monkeypatch.setattr("kat.cli.verify.present_backends", lambda: (backends, {}))
    data = tmp_path / "verify.json"
    assert run("--dtypes", "[float32]", "--json", data) == 1
    printed = capsys.readouterr().out
    assert "FAILED rounded: y, form " in printed
    assert "comparisons FAILED" in printed
    content = json.loads(data.read_text())
    assert content["passed"] is False
    assert {row["backend"] for row in content["results"] if row["ratio"] > 1} == {"rounded"}


def test_a_choice_of_backends(tmp_path):
    data = tmp_path / "verify.json"
    assert run("--backends", "[reference]", "--dtypes", "[float64]", "--json", data) == 0
    rows = json.loads(data.read_text())["results"]
    assert {(row["backend"], row["dtype"]) for row in rows} == {("reference", "float64")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--dtypes", "[float8]"), "unknown dtype 'float8'"),
        (("--dtypes", "float32"), "must be a list, got float32"),
        (("--backends", "[gpu]"), "the backend gpu is unavailable: there are reference, cpu"),
        (("--interpeter",), "did you mean '--interpreter'"),
    ],
)
def test_bad_input_is_one_line(arguments, named, capsys):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert named in captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels can be asked for")
def test_a_backend_that_is_not_here_is_refused_with_the_reason(capsys):
    assert run("--backends", "[triton]") == 2
    assert "there is no CUDA device" in capsys.readouterr().err
