"""``kat stability`` and ``--monitor`` as a user calls them."""

from __future__ import annotations

import csv

import pytest
from safetensors.torch import load_file

from tests.cli.commands import QUICK, refused, run
from tests.equality import assert_equal

pytestmark = pytest.mark.slow


def test_a_monitored_run_leaves_record_and_report(tmp_path, capsys):
    out = tmp_path / "run"
    common = ["--config", "digits", "--optim.warmup_epochs", 0, *QUICK, "--out", out]
    assert run("train", "--monitor", *common, "--epochs", 2, "--monitor.every_n_steps", 2) == 0
    printed = capsys.readouterr().out
    assert "Variance preserved" in printed
    rows = list(csv.DictReader((out / "stability.csv").open()))
    assert len(rows) == 3 * (4 * 2 + 4)
    assert run("stability", out, "--out", tmp_path / "gain.svg") == 0
    report = capsys.readouterr().out
    assert report in printed
    assert "gain, first" in report
    assert "blocks.3.mlp.act2" in report
    assert (tmp_path / "gain.svg").read_text().count("<svg") == 1


def test_monitored_weights_are_those_of_the_plain_run_and_a_resumed_run_goes_on(tmp_path, capsys):
    common = ["train", "--config", "digits", "--optim.warmup_epochs", 0, *QUICK]
    watched, plain = tmp_path / "watched", tmp_path / "plain"
    monitor = ("--monitor", "--monitor.every_n_steps", 1)
    assert run(*common, "--out", watched, "--epochs", 1, *monitor) == 0
    assert run(*common, "--out", plain, "--epochs", 1) == 0
    first, second = (load_file(out / "model.safetensors") for out in (watched, plain))
    assert_equal(first, second)
    assert "--monitor" in refused(capsys, "stability", plain)
    assert run("train", "--out", watched, "--resume", "true", "--epochs", 2) == 0
    every = csv.DictReader((watched / "stability.csv").open())
    rows = [row for row in every if row["layer"] == "blocks.0.mlp.act2"]
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    drift = [float(row["drift"]) for row in rows]
    assert drift[0] == 0
    assert drift[2] > drift[1] > 0


def test_a_monitored_run_that_diverges_has_its_report(tmp_path, capsys):
    out = tmp_path / "run"
    code = run(
        "train", "--monitor", "--config", "digits", "--out", out, "--epochs", 1, "--no-progress",
        "--optim.warmup_epochs", 0, "--optim.lr", 1e18, "--monitor.every_n_steps", 1,
    )  # fmt: skip
    assert code == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("The run was")
    assert captured.err.startswith("kat: the loss is")
    assert captured.err.count("\n") == 1
    assert (out / "stability.csv").exists()


def test_bad_input_of_stability(tmp_path, capsys):
    common = ["train", "--monitor", "--config", "digits", "--out", tmp_path / "run"]
    for options, says in (
        (("--model.compile", "true"), "cannot see inside a compiled model"),
        (("--strategy", "fsdp"), "needs whole weights, and strategy=fsdp shards them"),
    ):
        assert says in refused(capsys, *common, *options)
    assert not (tmp_path / "run").exists()
