"""``kat verify`` as a user calls it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import kat
from kat.analysis.verify.backends import Backend, present_backends
from kat.models import build_model, save_model
from tests.cli import commands
from tests.records import RECORD

pytestmark = pytest.mark.slow

MODERATE = ("backends", "--quick", "--forms", "[A]", "--largest", "1e3", "--no-progress")


def run(*arguments: object) -> int:
    return commands.run("verify", *arguments)


def test_everything_right_exits_with_0_and_leaves_table_json_and_report(tmp_path, capsys):
    page, data = tmp_path / "verify.html", tmp_path / "verify.json"
    assert run(*MODERATE, "--out", page, "--json", data) == 0
    printed = capsys.readouterr().out
    for part in ("reference", "float32", "bfloat16", "float16", "float64", "same bits"):
        assert part in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("all ")
    assert "passed in" in last
    content = json.loads(data.read_text())
    assert content["passed"] is True
    assert content["environment"]["torch"] == torch.__version__
    assert {row["quantity"] for row in content["results"]} >= {"y", "dx", "da", "db"}
    assert page.read_text().count("<svg") == 4  # a dtype each


def test_a_failure_exits_with_1_and_is_named(monkeypatch, capsys, tmp_path):
    def rounded(x, a, b, form):
        return kat.rational(x, a, b, form=form, impl="reference") * (1 + 1e-5)

    backends = [*present_backends()[0], Backend("rounded", rounded)]
    monkeypatch.setattr("kat.cli.verify.common.present_backends", lambda: (backends, {}))
    data = tmp_path / "verify.json"
    assert run(*MODERATE, "--dtypes", "[float32]", "--json", data) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "FAILED rounded: y, form A, degree 5/4, float32, coefficients trained" in printed
    assert "comparisons FAILED in" in printed
    failures = json.loads(data.read_text())["failures"]
    assert failures
    assert all(line.startswith("rounded: ") for line in failures)


def test_a_choice_of_backends(tmp_path):
    data = tmp_path / "verify.json"
    assert run(*MODERATE, "--backends", "[reference]", "--dtypes", "[float64]", "--json", data) == 0
    rows = json.loads(data.read_text())["results"]
    assert {(row["backend"], row["dtype"]) for row in rows} == {("reference", "float64")}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--dtypes", "[float8]"), "unknown dtype 'float8'"),
        (("--forms", "[C]"), "unknown form 'C' (there are: A, B)"),
        (("--degrees", "[[5,0]]"), "got (5, 0)"),
        (("--largest", "0"), "largest must be a finite number from 1e-3 on, got 0.0"),
        (("--largest", ".nan"), "got nan"),
        (("--seed", "-1"), "seed must be at least 0, got -1"),
        (("--backends", "[gpu]"), "unknown backend 'gpu'"),
        (("--out", "/no/such/folder/x.html"), "/no/such/folder"),
        (("--quik",), "did you mean '--quick'"),
        (("--data", "digits"), "unknown option '--data'"),
    ],
)
def test_bad_input_is_one_line(arguments, named, capsys):
    assert run("backends", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert named in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("/no/such/model",), "/no/such/model"),
        (("m", "--largest", "10"), "unknown option '--largest'"),
        (("m", "--quick"), "unknown option '--quick'"),
        (("m", "--dtypes", "[float8]"), "unknown dtype 'float8'"),
        (
            ("m", "--dtypes", "float32"),
            "must be a list, got float32; a list is written as '[x, y]'",
        ),
    ],
)
def test_bad_input_of_a_model_is_one_line(arguments, named, capsys):
    assert run("model", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert named in captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the kernels can be asked for")
def test_a_backend_that_is_not_here_is_refused_with_the_reason(capsys):
    assert run("backends", "--backends", "[triton]") == 2
    assert "there is no CUDA device" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    record = replace(
        RECORD, architecture="kat_micro", args={"num_groups": 4, "patch_size": 2},
        mean=(0.3,), std=(0.4,),
    )  # fmt: skip
    folder = tmp_path / "model"
    built = build_model(record)
    save_model(built, record, folder)
    return built, folder


@pytest.mark.parametrize("data", [(), ("--data", "digits", "--data.batch_size", "8")])
def test_a_checkpoint_is_verified_layer_by_layer(model, data, tmp_path, capsys):
    built, folder = model
    page, path = tmp_path / "verify.html", tmp_path / "verify.json"
    arguments = ("model", folder, "--dtypes", "[float32]", "--no-progress")
    assert run(*arguments, "--json", path, "--out", page, *data) == 0
    content = json.loads(path.read_text())
    layers = [name for name, m in built.named_modules() if isinstance(m, kat.GroupRational)]
    assert list(content["inputs"]) == layers
    assert all(low < high for low, high in content["inputs"].values())
    seen = {row["coefficients"] for row in content["results"]}
    assert seen == {f"{layer} group {group}" for layer in layers for group in range(4)}
    assert layers[0] in page.read_text()
    assert layers[0] in capsys.readouterr().out


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        run("backends", "--help")
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "kat verify backends --quick" in printed
    assert "Exit code: 0" in printed
