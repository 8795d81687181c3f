"""What a run says while it trains: the line of an epoch, lines within it, the bar, the logs."""

from __future__ import annotations

import csv
import re

import pytest
import torch
from kat.training.progress import (
    Bar,
    SpeedLog,
    StepLines,
    is_interactive,
    learning_rate,
    validation_values,
)
from kat.training.throughput import Meter, Work
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kat.training import Classifier, TrainConfig
from kat.training import run as training_run
from tests.cli.commands import run
from tests.training.small import fit_slowly

QUICK = (
    "train", "--config", "digits", "--optim.warmup_epochs", 0, "--limit_val_batches", 1,
    "--data.batch_size", 32,
)  # fmt: skip


def test_the_line_of_an_epoch_and_the_rows_of_the_logs(tmp_path, capsys):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 2, "--log_every_n_steps", 2,
               "--limit_train_batches", 5, "--optim.ema_decay", 0.9) == 0  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    pattern = (
        r"epoch {}/2  train loss \d\.\d{{4}}  val loss \d\.\d{{4}} \(raw \d\.\d{{4}}\)"
        r"  top-1 \d+\.\d\d \(raw \d+\.\d\d\)  top-5 \d+\.\d\d \(raw \d+\.\d\d\)"
        r"  lr \d\.\d\de-0\d  images/s \d+(\.\d+)?  data wait \d+ %"
        r"  memory [\d.]+ [MG]B  took \d+\.\d s"
    )
    assert re.fullmatch(pattern.format(1) + r"  run ends in \d+\.\d s", lines[0])
    assert re.fullmatch(pattern.format(2), lines[1])
    rows = [r for r in csv.DictReader((out / "csv/version_0/metrics.csv").open())
            if r["speed/lr"]]  # fmt: skip
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("0", "1"), ("0", "3"), ("1", "5"), ("1", "7"), ("1", "9")
    ]  # fmt: skip
    for row in rows:
        batches = 1 if row["step"] == "5" else 2  # an epoch starts its own count
        seconds = batches * float(row["speed/seconds_per_step"])
        assert float(row["speed/images_per_second"]) == pytest.approx(batches * 32 / seconds)
        assert 0 < float(row["speed/data_wait"]) < 1
        assert 0.05 < float(row["speed/memory_gb"]) < 50
    events = EventAccumulator(str(out / "tensorboard/version_0"))
    events.Reload()
    logged = events.Scalars("speed/images_per_second")
    expected = [float(row["speed/images_per_second"]) for row in rows]
    assert [event.value for event in logged] == pytest.approx(expected, rel=1e-6)


def test_an_epoch_shorter_than_log_every_has_one_row(tmp_path):
    out = tmp_path / "run"
    assert run(*QUICK, "--out", out, "--epochs", 2, "--limit_train_batches", 3) == 0
    rows = list(csv.DictReader((out / "csv/version_0/metrics.csv").open()))
    assert [row["step"] for row in rows if row["speed/lr"]] == ["2", "5"]


def test_a_resumed_run_goes_on_with_its_history(tmp_path):
    out = tmp_path / "run"
    common = (*QUICK, "--out", out, "--limit_train_batches", 3, "--log_every_n_steps", 1)
    assert run(*common, "--epochs", 1) == 0
    assert run(*common, "--epochs", 2, "--resume", "true") == 0
    history = list(csv.DictReader((out / "history.csv").open()))
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert all(float(row["top1"]) > 0 and float(row["train_loss"]) > 0 for row in history)
    rows = list(csv.DictReader((out / "csv/version_1/metrics.csv").open()))
    assert [row["step"] for row in rows if row["speed/lr"]] == ["3", "4", "5"]


@pytest.mark.parametrize(("seconds", "count"), [(0.0, 3), (30.0, 0)])
def test_lines_within_an_epoch_come_with_the_rows_and_not_too_often(
    tmp_path, capsys, monkeypatch, seconds, count
):
    monkeypatch.setattr(training_run, "StepLines", lambda speed: StepLines(speed, seconds))
    assert run(*QUICK, "--out", tmp_path / "run", "--epochs", 1, "--log_every_n_steps", 2,
               "--limit_train_batches", 7) == 0  # fmt: skip
    lines = [line for line in capsys.readouterr().out.splitlines() if "batch" in line]
    assert len(lines) == count
    pattern = (
        r"epoch 1/1  batch {}/7  loss \d\.\d{{4}}  lr \d\.\d\de-0\d  images/s \d+(\.\d+)?"
        r"  data wait \d+ %  memory [\d.]+ [MG]B  epoch ends in \d+\.\d s  run ends in \d+\.\d s"
    )
    for line, batch in zip(lines, (2, 4, 6), strict=False):
        assert re.fullmatch(pattern.format(batch), line)


def test_a_bar_shows_the_same_values_in_a_terminal(tmp_path, capsys, monkeypatch):
    shown = []
    metrics = Bar.get_metrics

    def noted(self, trainer, module):
        shown.append(metrics(self, trainer, module))
        return shown[-1]

    monkeypatch.setattr(Bar, "get_metrics", noted)
    monkeypatch.setattr(training_run, "is_interactive", lambda config: True)
    assert run(*QUICK, "--out", tmp_path / "run", "--epochs", 2, "--log_every_n_steps", 2,
               "--limit_train_batches", 4) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.count("train loss") == 2
    assert "Epoch 2/2" in printed
    names = ["loss", "lr", "images/s", "data wait", "memory"]
    assert list(shown[1])[:5] == names
    assert "top-1" not in shown[1]
    assert "top-1" in shown[-1]
    assert len({values["loss"] for values in shown}) <= 6  # not one a batch


def test_a_bar_needs_a_terminal(monkeypatch):
    assert not is_interactive(TrainConfig())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert is_interactive(TrainConfig())
    assert not is_interactive(TrainConfig(progress=False))


def test_accuracies_of_the_average_and_of_the_weights_themselves():
    metrics = {"val/loss": torch.tensor(1.0), "val/top1": 81.204, "val/top5": 95.0}
    assert validation_values(metrics, Classifier.scores) == {
        "val loss": "1.0000", "top-1": "81.20", "top-5": "95.00"
    }  # fmt: skip
    raw = {"val/raw_loss": 1.25, "val/raw_top1": torch.tensor(80.11), "val/raw_top5": 94.8}
    assert validation_values(metrics | raw, Classifier.scores) == {
        "val loss": "1.0000 (raw 1.2500)",
        "top-1": "81.20 (raw 80.11)",
        "top-5": "95.00 (raw 94.80)",
    }
    assert validation_values({}, Classifier.scores) == {}


class Stub:
    """As much of a Trainer as the estimate needs."""

    num_training_batches = 100
    accumulate_grad_batches = 2
    world_size = 1
    current_epoch = 1
    global_step = 60
    loggers = ()


@pytest.mark.parametrize(
    ("settings", "run_seconds"),
    [
        ({}, (8 * 100 + 80) * 0.5 + 8.8 * 10),
        ({"limit_epochs": 2}, 80 * 0.5 + 0.8 * 10),
        ({"max_steps": 70}, 20 * 0.5 + 0.2 * 10),
        ({"max_steps": 50}, 0.0),
    ],
)
def test_time_left(settings, run_seconds):
    """Half a second a batch, 20 of 100 batches of epoch 2 done, 10 s for a validation."""
    speed = SpeedLog(FakeMeter(), TrainConfig(epochs=10, **settings))
    speed._batches, speed.validation = 20, 10.0
    assert speed.seconds_left(Stub()) == pytest.approx((40.0, run_seconds))


def test_time_left_of_a_stream_is_not_known():
    stream = Stub()
    stream.num_training_batches = float("inf")
    assert SpeedLog(FakeMeter(), TrainConfig()).seconds_left(stream) == (float("inf"),) * 2


class FakeMeter:
    """Twenty batches in ten seconds."""

    def read(self):
        return Work(images=640, batches=20, seconds=10.0, waited=1.0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_validation_is_timed_apart():
    meter = Meter()
    speed = SpeedLog(meter, TrainConfig())
    fit_slowly(0.0, 0.3, callbacks=[speed], profiler=meter)
    assert speed.recent.images == 32
    assert speed.validation >= 1.2 > speed.recent.seconds


def test_the_learning_rate_is_that_of_the_schedule():
    class Optimizer:
        param_groups = ({"lr": 0.0005, "lr_scale": 0.5}, {"lr": 0.001})

    class Two:
        optimizers = (Optimizer(),)

    assert learning_rate(Two()) == 0.001
