"""Where a run stops before its last epoch, and that it can be resumed from there."""

from __future__ import annotations

import csv

import pytest
import torch

from kat.training.config import parse_time
from tests.cli.commands import refused, run

pytestmark = pytest.mark.slow

QUICK = (
    "train", "--config", "digits", "--optim.warmup_epochs", 0, "--limit_val_batches", 1,
    "--data.batch_size", 32, "--log_every_n_steps", 1, "--epochs", 4,
)  # fmt: skip


def _rates(out):
    """The learning rate after each step, over all resumptions."""
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    return {int(row["step"]): float(row["speed/lr"]) for row in rows if row["speed/lr"]}


def _place(out):
    """Epochs that are over, and steps taken."""
    state = torch.load(out / "last.ckpt", weights_only=True)["state"]
    return state["epoch"], state["step"]


def test_a_run_that_is_stopped_and_resumed_follows_the_schedule_of_all_epochs(tmp_path):
    common = (*QUICK, "--limit_train_batches", 3)
    for name, limits in (("whole", []), ("stopped", ["--limit_epochs", 2])):
        assert run(*common, "--out", tmp_path / name, *limits) == 0
    assert _place(tmp_path / "stopped") == (2, 6)
    assert run("train", "--out", tmp_path / "stopped", "--resume", "true") == 0
    assert _rates(tmp_path / "stopped") == _rates(tmp_path / "whole")
    assert sorted(_rates(tmp_path / "stopped")) == list(range(12))


def test_a_run_that_is_at_its_limit_does_no_more(tmp_path):
    out, limits = tmp_path / "run", ("--limit_epochs", 1, "--limit_train_batches", 2)
    assert run(*QUICK, "--out", out, *limits) == 0
    before = _place(out)
    assert run(*QUICK, "--out", out, *limits, "--resume", "true") == 0
    assert _place(out) == before == (1, 2)


def test_steps_are_counted_over_the_run(tmp_path):
    common = (*QUICK, "--out", tmp_path / "run", "--limit_train_batches", 3)
    assert run(*common, "--max_steps", 3) == 0
    assert run(*common, "--max_steps", 5, "--resume", "true") == 0
    assert _place(tmp_path / "run") == (1, 5)
    assert [row["epoch"] for row in csv.DictReader((tmp_path / "run/history.csv").open())] == [
        "1", "2"
    ]  # fmt: skip


def test_time_is_up_after_a_second(tmp_path, capsys):
    code = run(*QUICK, "--out", tmp_path / "run", "--epochs", 1000, "--max_time", "00:00:01")
    assert code == 0
    assert "best top-1" in capsys.readouterr().out
    assert 1 < _place(tmp_path / "run")[1] < 44 * 100


def test_a_share_of_the_batches(tmp_path):
    assert run(*QUICK, "--out", tmp_path / "run", "--epochs", 1, "--limit_train_batches", 0.1) == 0
    assert _place(tmp_path / "run") == (1, 4)  # of 44


def test_times():
    assert parse_time("02:00:00") == 7200
    assert parse_time("1:02:03:04") == 86400 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit_train_batches", "0.01"], "limit_train_batches=0.01 of 44 batches is less than"),
        (["--limit_train_batches", "0.0"], "or a share above 0.0 and at most 1.0, got 0.0"),
        (["--limit_val_batches", "1.5"], "or a share above 0.0 and at most 1.0, got 1.5"),
        (["--limit_val_batches", "0"], "limit_val_batches must be at least 1 batch"),
        (["--limit_epochs", "0"], "limit_epochs must be at least 1, got 0"),
        (["--max_steps", "-1"], "max_steps must be at least 1, got -1"),
        (["--max_time", "2h"], "max_time must be HH:MM:SS or DD:HH:MM:SS and above 0, got 2h"),
        (["--max_time", "00:00:00"], "and above 0, got 00:00:00"),
        (["--max_time", "00:61:00"], "got 00:61:00"),
    ],
)
def test_bad_limits_are_refused(arguments, message, tmp_path, capsys):
    assert message in refused(capsys, *QUICK, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()
