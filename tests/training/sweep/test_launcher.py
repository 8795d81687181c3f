"""Runs side by side: their GPUs, and what becomes of them when something fails."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from kat.data import DataConfig
from kat.training import TrainConfig
from kat.training.config import ModelConfig
from kat.training.sweep.launcher import Job, _environment, run_jobs, slots

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1", "0"]),
        ("3,5", ["3", "5", "3"]),
        ("GPU-ab, MIG-cd", ["GPU-ab", "MIG-cd", "GPU-ab"]),
    ],
)
def test_runs_have_the_gpus_that_this_process_may_use(monkeypatch, visible, names):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [_environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)]
    assert found == names
    assert slots(None, 1) == 2
    monkeypatch.setattr("kat.training.sweep.launcher.cores", lambda: 6)
    assert slots(None, 2, on_cpu=True) == 3
    assert slots(5, 2) == 5


def _job(path, args, **settings):
    model = ModelConfig("kat_micro_patch2_8", {"depth": 1, **args})
    config = TrainConfig(out=str(path), model=model, data=DataConfig("digits"), **settings)
    return Job(config, path.with_suffix(".log"))


def test_nothing_goes_on_when_the_table_cannot_be_written(tmp_path):
    def full(job, error):
        raise OSError("no space left")

    many = {"long": {}, "bad": {"widht": 3}}
    jobs = [_job(tmp_path / name, args, epochs=500) for name, args in many.items()]
    with pytest.raises(OSError, match="no space left"):
        run_jobs(jobs, 2, 1, lambda _: None, full)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("forked", [True, pytest.param(False, marks=pytest.mark.release)])
def test_a_run_has_the_environment_of_its_call(tmp_path, monkeypatch, forked):
    if not forked:
        monkeypatch.setattr("kat.processes.fork_server", lambda module: None)
    logs = []
    for name in ("first", "second"):
        job = _job(tmp_path / name, {}, epochs=1, max_steps=1)
        run_jobs([job], 1, 1, lambda _: None, lambda *_: None)
        monkeypatch.setenv("KAT_CPU_KERNEL", "no such kernel")
        logs.append("no such kernel" in job.log.read_text())
    assert logs == [False, True]
