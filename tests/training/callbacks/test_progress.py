"""Output of a run that trains: the line of an epoch, lines within it, the bar, the logs."""

from __future__ import annotations

import csv
import os
import re
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kat.training.engine import trainer
from tests.cli.commands import run

pytestmark = pytest.mark.slow

QUICK = (
    "train", "--config", "digits", "--optim.warmup_epochs", 0, "--limit_val_batches", 1,
    "--data.batch_size", 32,
)  # fmt: skip


def test_the_line_of_an_epoch_and_the_rows_of_the_logs(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 2, "--log_every_n_steps", 2,
               "--limit_train_batches", 5, "--optim.ema_decay", 0.9) == 0  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert ["run ends in" in line for line in lines] == [True, False]
    for line in lines:
        assert re.search(r"top-1 \d+\.\d\d \(raw \d+\.\d\d\).*memory [\d.]+ [MG]B", line)
    rows = [row for row in csv.DictReader((out / "metrics.csv").open()) if row["speed/lr"]]
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("0", "1"), ("0", "3"), ("1", "5"), ("1", "7"), ("1", "9")
    ]  # fmt: skip
    for row in rows:
        batches = 1 if row["step"] == "5" else 2  # an epoch starts its own count
        seconds = batches * float(row["speed/seconds_per_step"])
        assert float(row["speed/images_per_second"]) == pytest.approx(batches * 32 / seconds)
        assert 0 < float(row["speed/data_wait"]) < 1
        assert 0.05 < float(row["speed/memory_gb"]) < 50
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    logged = events.Scalars("speed/images_per_second")
    expected = [float(row["speed/images_per_second"]) for row in rows]
    assert [event.value for event in logged] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 3), (30.0, 0)])
def test_lines_within_an_epoch_come_with_the_rows_and_not_too_often(
    tmp_path, capsys, monkeypatch, seconds, count
):
    monkeypatch.setattr(trainer, "QUIET_SECONDS", seconds)
    assert run(*QUICK, "--out", tmp_path / "run", "--epochs", 1, "--log_every_n_steps", 2,
               "--limit_train_batches", 7) == 0  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if "batch" in line]
    assert len(lines) == count
    for line, batch in zip(lines, (2, 4, 6), strict=False):
        assert line.startswith(f"epoch 1/1  batch {batch}/7  loss ")


def test_a_bar_shows_the_epoch_in_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which rich takes any output for a terminal
    monkeypatch.setattr(trainer, "is_interactive", lambda config: True)
    assert run(*QUICK, "--out", tmp_path / "run", "--epochs", 2, "--limit_train_batches", 4) == 0
    printed = capsys.readouterr().out
    assert printed.count("train loss") == 2
    assert "Epoch 2/2" in printed


def test_training_outlives_the_reader_of_its_output(tmp_path, capsys, monkeypatch):
    out, (reader, writer) = tmp_path / "run", os.pipe()
    os.close(reader)
    with open(writer, "w") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert run(*QUICK, "--epochs", 1, "--limit_train_batches", 2, "--out", out) == 0
    assert (out / "summary.json").is_file()
    assert capsys.readouterr().err.count("Broken pipe") == 1
