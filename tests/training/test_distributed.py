"""Several processes: equal to one, whole in what they write, and resumed by another number."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.images import write_folder
from tests.processes import children, start, wait_until

SETTINGS = (
    "--config", "digits", "--epochs", "2", "--optim.warmup_epochs", "1", "--no-progress",
    "--accelerator", "cpu", "--model.args", "{depth: 2}", "--model.drop_path", "0",
    "--optim.name", "sgd", "--optim.ema_decay", "0.9", "--augment.random_erasing", "0.5",
    "--limit_train_batches", "5",
)  # fmt: skip
DIVISIONS = {
    "one": ("--data.batch_size", "64"),
    "ddp": ("--data.batch_size", "32", "--devices", "2"),
    "fsdp": ("--data.batch_size", "32", "--devices", "2", "--strategy", "fsdp"),
}


def _start(out, *more):
    return start("train", *SETTINGS, "--out", out, *more)


def _train(out, *more):
    process = _start(out, *more)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed


def _history(out):
    with (out / "history.csv").open(newline="") as file:
        return [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]


def _state(out):
    return torch.load(out / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for name, settings in DIVISIONS.items():
        _train(root / name, *settings)
    return root


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_train_as_one_with_their_joint_batch(runs, name):
    """Validation has 360 images: 6 batches of 64, or 6 of 32 in each process; none is whole."""
    one, two = _state(runs / "one"), _state(runs / name)
    for key in ("state_dict", "raw_state_dict"):
        assert one[key].keys() == two[key].keys()
        for weight in one[key]:
            torch.testing.assert_close(two[key][weight], one[key][weight], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(_history(runs / name), _history(runs / "one"), strict=True):
        assert ours["top1"] == theirs["top1"]
        assert ours["raw_top5"] == theirs["raw_top5"]
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_processes_with_different_numbers_of_validation_batches(tmp_path):
    """9 images in batches of 4: 5 of one process, 4 of the other."""
    write_folder(tmp_path / "data", classes=3, train=4, val=3)
    _train(
        tmp_path / "run", "--data.name", f"folder:{tmp_path / 'data'}", "--data.image_size", "8",
        "--data.batch_size", "4", "--devices", "2",
    )  # fmt: skip
    assert len(_history(tmp_path / "run")) == 2


@pytest.mark.parametrize(("before", "after"), [("ddp", "one"), ("one", "ddp"), ("fsdp", "one")])
def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path, before, after):
    out = tmp_path / "run"
    shutil.copytree(runs / before, out)
    strategy = ("--strategy", "auto") if before == "fsdp" else ()
    printed = _train(
        out, "--resume", "true", "--epochs", "3", "--devices", "1", *strategy, *DIVISIONS[after]
    )
    assert "not those of an uninterrupted run to the last bit" in printed
    assert [row["epoch"] for row in _history(out)] == [1, 2, 3]
    assert _state(out)["state"]["step"] == 15


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_processes_that_are_asked_to_stop_go_on_to_the_same_end(runs, tmp_path, name):
    """SIGTERM comes to the first process alone, while it trains."""
    out = tmp_path / "run"
    process = _start(out, *DIVISIONS[name], "--checkpoint.every_n_steps", "2", "--resume", "auto")
    wait_until((out / "metrics.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 75, -signal.SIGTERM), errors  # sooner or later than training
    _train(out, *DIVISIONS[name], "--checkpoint.every_n_steps", "2", "--resume", "auto")
    ours, theirs = _state(out), _state(runs / name)
    for key in ("state_dict", "raw_state_dict"):
        assert all(torch.equal(ours[key][n], theirs[key][n]) for n in theirs[key])
    assert _history(out) == _history(runs / name)


def test_no_process_is_left_when_the_first_is_gone_before_training(tmp_path):
    """It is killed as soon as the second is there, which then waits for it."""
    process = _start(tmp_path / "run", *DIVISIONS["ddp"])
    wait_until(lambda: children(process.pid), process)
    process.kill()
    process.communicate(timeout=100)  # its pipes are closed when the last process has ended


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and the program ip"
)
def test_a_machine_that_is_killed_comes_back_and_the_end_is_the_same(tmp_path):
    probe = subprocess.run(["ip", "netns", "add", "kat-probe"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no network namespaces here: {probe.stderr.decode().strip()}")
    subprocess.run(["ip", "netns", "delete", "kat-probe"], check=True)
    script = Path(__file__).parents[2] / "benchmarks" / "two_machines.py"
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("the same bits")
