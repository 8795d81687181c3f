"""Runs that are stopped at any moment, and resumed to the same weights, EMA and metrics."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from multiprocessing.process import BaseProcess

import pytest
import torch

from kat.training.callbacks import checkpoints
from kat.training.callbacks.coefficients import CoefficientRecorder
from kat.training.record import checkpoint
from kat.training.tasks.classification.task import Classification, ClassificationMetrics
from tests.cli.commands import run
from tests.marks import most_at_night
from tests.processes import wait_until
from tests.training.killed_runs import differences, results
from tests.training.small import Killed

pytestmark = pytest.mark.slow

SETTINGS = (
    "--config", "digits", "--epochs", 2, "--optim.warmup_epochs", 1, "--no-progress",
    "--model.args", "{depth: 1}", "--model.drop", 0.1, "--data.batch_size", 16,
    "--data.num_workers", 2, "--limit_train_batches", 9, "--limit_val_batches", 3,
    "--precision", "bf16-mixed", "--optim.ema_decay", 0.99, "--optim.accumulate_grad_batches", 2,
    "--augment.mixup", 0.8, "--augment.cutmix", 1, "--augment.random_erasing", 0.5,
    "--augment.auto_augment", "rand-m9-mstd0.5", "--checkpoint.every_n_steps", 2,
)  # fmt: skip
STEPS = 10


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    out = tmp_path_factory.mktemp("clean") / "run"
    assert run("train", *SETTINGS, "--out", out) == 0
    assert torch.load(out / "last.ckpt", weights_only=True)["state"]["step"] == STEPS
    return results(out)


def nth(call, fault):
    """``fault`` in the place of the n-th call of a function, counted over all resumptions."""
    calls = 0

    def wrap(function):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                fault(*args)
            return function(*args, **kwargs)

        return wrapped

    return wrap


def kill(*_):
    raise Killed


def torn(checkpoint, file):
    """Half a file, and then nothing more."""
    file.write(b"PK\x03\x04" * 1000)
    file.flush()
    raise Killed


MOMENTS = {
    "before the first step": (Classification, "loss", nth(1, kill)),
    "within an epoch": (Classification, "loss", nth(5, kill)),
    "within an accumulation": (Classification, "loss", nth(14, kill)),
    "after the last step of an epoch": (ClassificationMetrics, "compute", nth(3, kill)),
    "during validation": (Classification, "predict", nth(3, kill)),
    "before an epoch is kept": (CoefficientRecorder, "on_epoch_end", nth(1, kill)),
    "while a checkpoint is written": (checkpoint.torch, "save", nth(5, torn)),
    "between last and previous": (checkpoint, "link_or_copy", nth(4, kill)),
    "between last and best": (checkpoints, "link_or_copy", nth(1, kill)),
    "before the history is written": (checkpoints, "write_records", nth(1, kill)),
    "before the last history is written": (checkpoints, "write_records", nth(2, kill)),
}


AT_NIGHT = {
    "within an accumulation",
    "after the last step of an epoch",
    "during validation",
    "between last and previous",
    "before the history is written",
    "before the last history is written",
}


@pytest.mark.parametrize("moment", most_at_night(MOMENTS, MOMENTS.keys() - AT_NIGHT))
def test_a_killed_run_is_resumed_to_the_same_end(tmp_path, monkeypatch, capsys, clean, moment):
    owner, name, wrap = MOMENTS[moment]
    command = ("train", *SETTINGS, "--out", tmp_path / "run", "--resume", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, wrap(getattr(owner, name)))
        with pytest.raises(Killed):
            run(*command)
    assert run(*command) == 0
    assert differences(results(tmp_path / "run"), clean) == []
    assert not list((tmp_path / "run").glob(".partial-*"))


@pytest.mark.parametrize(
    "number", most_at_night([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], [signal.SIGTERM])
)
@pytest.mark.parametrize(("place", "call"), [("loss", 12), ("predict", 7)])
def test_a_run_that_is_asked_to_stop_saves_and_exits_with_75(
    tmp_path, monkeypatch, capsys, clean, number, place, call
):
    command = ("train", *SETTINGS, "--out", tmp_path / "run", "--resume", "auto")
    with monkeypatch.context() as patch:
        wrap = nth(call, lambda *_: os.kill(os.getpid(), number))
        patch.setattr(Classification, place, wrap(getattr(Classification, place)))
        assert run(*command) == 75
    # an epoch is 9 batches in 5 steps, and 3 batches of validation
    step = 7 if place == "loss" else 10
    error = capsys.readouterr().err
    assert f"kat: stopped at step {step}; --resume auto continues from there" in error
    assert ("SLURM job" in error) == (number == signal.SIGUSR1)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state"]["step"] == step
    assert run(*command) == 0
    assert differences(results(tmp_path / "run"), clean) == []


def test_the_state_of_an_optimizer_keeps_its_dtype_and_its_strides(tmp_path, monkeypatch, capsys):
    """torch loads NAdam's product of momenta, which is float32, as float64 for such weights."""
    own = ("--precision", "64-true", "--optim.name", "nadam", "--model.channels_last", "true")
    command = ["train", *SETTINGS, *own, "--out"]
    assert run(*command, tmp_path / "clean") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "loss", nth(11, kill)(Classification.loss))
        with pytest.raises(Killed):
            run(*command, tmp_path / "run")
    assert run(*command, tmp_path / "run", "--resume", "auto") == 0
    assert differences(results(tmp_path / "run"), results(tmp_path / "clean")) == []


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch, capsys, clean):
    out = tmp_path / "run"
    command = ("train", *SETTINGS, "--out", out, "--resume", "auto")
    with monkeypatch.context() as patch:
        patch.setattr(Classification, "loss", nth(15, kill)(Classification.loss))
        with pytest.raises(Killed):
            run(*command)
    content = bytearray((out / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "last.ckpt").write_bytes(content)
    assert run(*command) == 0
    assert f"resuming from {out / 'previous.ckpt'}" in capsys.readouterr().out
    assert differences(results(out), clean) == []


def test_a_checkpoint_that_cannot_be_written_stops_the_run_and_leaves_the_one_before(
    tmp_path, monkeypatch, capsys, clean
):
    """A limit on the size of files makes the kernel refuse the write, as a full disk does."""
    out = tmp_path / "run"
    command = ("train", *SETTINGS, "--out", out, "--resume", "auto")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "loss", nth(15, full)(Classification.loss))
        try:
            assert run(*command) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "last.ckpt cannot be written: File too large. " in error
    assert not list(out.glob(".partial-*"))
    assert run(*command) == 0
    assert differences(results(out), clean) == []


@pytest.mark.filterwarnings("ignore:Exception ignored in.*DataLoaderIter")  # its own __del__
def test_too_few_open_files_for_the_workers_end_in_one_line(tmp_path, monkeypatch, capsys):
    """The worker that has started ends, too; the program would wait for it at its exit."""

    def full(*_):
        time.sleep(2)  # until the first one heeds signals as it does at work
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(BaseProcess, "start", nth(2, full)(BaseProcess.start))
    assert run("train", *SETTINGS, "--out", tmp_path / "run") == 1
    errors = capsys.readouterr().err
    assert (errors.count("Too many open"), errors.count("\n")) == (1, 1)
    wait_until(lambda: not multiprocessing.active_children())
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state"]["step"] == 0


def test_a_run_that_is_done_stays_as_it_is(tmp_path, capsys):
    out = tmp_path / "run"
    command = ("train", *SETTINGS, "--out", out, "--resume", "auto")
    assert run(*command) == 0
    before, first = _contents(out)
    assert run(*command) == 0
    after, second = _contents(out)
    assert after == before
    assert second["images_per_second"] == pytest.approx(first["images_per_second"], rel=0.5)
    assert second["memory_bytes"] >= first["memory_bytes"]
    assert second["worker_memory_bytes"] == first["worker_memory_bytes"] > 0
    for name in ("last.ckpt", "previous.ckpt"):
        (out / name).unlink()
    assert run(*command) == 2  # nor does it begin anew
    assert "already holds a" in capsys.readouterr().err
    assert (out / "model.safetensors").exists()


def _contents(out):
    """The files of a run, and apart from them what was measured."""
    files = {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}
    summary = json.loads(files["summary.json"])
    names = ("seconds", "images_per_second", "memory_bytes", "worker_memory_bytes")
    measured = {name: summary.pop(name) for name in names}
    return files | {"summary.json": summary}, measured


def test_other_batches_are_refused_and_nothing_is_changed(tmp_path, capsys):
    out = tmp_path / "run"
    command = ("train", *SETTINGS, "--out", out, "--resume", "auto")
    assert run(*command, "--limit_epochs", 1) == 0
    before = {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()}
    assert run(*command, "--data.batch_size", 32) == 2
    line = capsys.readouterr().err
    assert "batch size was 16" in line
    assert "--init-from" in line
    assert {path.name: path.read_bytes() for path in out.glob("*.*") if path.is_file()} == before
