"""Where a run stops before its last epoch, and that it can be resumed from there."""

from __future__ import annotations

import csv
import re

import pytest
import torch

from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.limits import Limits
from kat.training.config import CheckpointConfig, parse_time
from kat.training.engine.loop import fit
from tests.cli.commands import refused, run
from tests.equality import assert_equal
from tests.training.small import Kill, Killed, batches, make_run, restore

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


def test_steps_are_counted_over_the_run(tmp_path):
    common = (*QUICK, "--out", tmp_path / "run", "--limit_train_batches", 3)
    assert run(*common, "--max_steps", 3) == 0
    assert run(*common, "--max_steps", 5, "--resume", "true") == 0
    assert _place(tmp_path / "run") == (1, 5)
    assert [row["epoch"] for row in csv.DictReader((tmp_path / "run/history.csv").open())] == [
        "1", "2"
    ]  # fmt: skip


TOP1, LOSS = (50, 60, 60, 59, 60, 60), (1.0, 1.0, 0.9, 0.8, 0.9, 0.95)
"""Epoch 3 has the highest top-1 and, of the three with it, the lowest loss."""


def _early(out, *callbacks):
    out.mkdir(exist_ok=True)
    made = make_run(
        batches(2), batches(1), *callbacks, Limits(), Checkpoints(), out=out, epochs=20,
        early_stopping=3, checkpoint=CheckpointConfig(every_n_steps=1),
    )  # fmt: skip

    def compute():
        epoch = len(made.state.history)
        values = {"loss": LOSS[epoch], "top1": TOP1[epoch], "top5": 100}
        return {name: torch.tensor(float(value)) for name, value in values.items()}

    made.metrics.compute = compute
    return made


def test_a_run_stops_early_and_after_the_same_epoch_if_it_is_resumed(tmp_path, capsys):
    fit(_early(tmp_path / "whole"))
    assert "stopped early: none of 3 epochs since epoch 3 is better" in capsys.readouterr().out
    with pytest.raises(Killed):
        fit(_early(tmp_path / "parts", Kill(9)))
    for steps in (12, 12):  # the second has nothing left to do
        resumed = _early(tmp_path / "parts")
        restore(resumed)
        fit(resumed)
        assert (resumed.state.epoch, resumed.state.step) == (6, steps)
    whole, parts = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["state"]["history"] == parts["state"]["history"]
    assert_equal(whole["state_dict"], parts["state_dict"])
    best = torch.load(tmp_path / "parts" / "best.ckpt", weights_only=True)["state"]
    assert best["epoch"] == best["best"]["epoch"] == 3
    rows = csv.DictReader((tmp_path / "parts" / "history.csv").open())
    assert [row["best"] for row in rows] == ["0", "0", "1", "0", "0", "0"]


def test_time_is_up_after_a_second(tmp_path, capsys):
    code = run(*QUICK, "--out", tmp_path / "run", "--epochs", 1000, "--max_time", "00:00:01")
    assert code == 0
    assert re.search(r"best top-1 \S+ % \(95 % CI", capsys.readouterr().out)
    assert 1 <= _place(tmp_path / "run")[1] < 44 * 100


def test_times():
    assert parse_time("02:00:00") == 7200
    assert parse_time("1:02:03:04") == 86400 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit_train_batches", "0.01"], "limit_train_batches=0.01 leaves none"),
        (["--max_time", "2h"], "HH:MM:SS"),
    ],
)
def test_bad_limits_are_refused(arguments, message, tmp_path, capsys):
    assert message in refused(capsys, *QUICK, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()
