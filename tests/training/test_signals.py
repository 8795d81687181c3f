"""Requests to stop, and how a job of SLURM is put back into the queue."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from kat.processes import REQUESTS_TO_STOP
from kat.training.cluster.signals import StopRequest, requeue_slurm_job

pytestmark = pytest.mark.slow


_STOPPED_AT_IMPORT = """
import os, signal, sys
import kat_command

class Finder:
    def find_spec(self, name, *rest):
        if name == sys.argv[1] and ("LOCAL_RANK" in os.environ) == (sys.argv[2] == "rank"):
            signal.raise_signal(int(sys.argv[3]))

sys.meta_path.insert(0, Finder())
sys.exit(kat_command.main(["train", "--config", "digits", *sys.argv[4:]]))
"""
"""Runs ``kat train``, and sends a signal to it or to its ranks when they import a module."""


@pytest.mark.parametrize(
    ("module", "place", "number"),
    [
        ("torch", "main", signal.SIGUSR1),
        ("kat.training.engine.build", "main", signal.SIGTERM),
        pytest.param("torch", "rank", signal.SIGTERM, marks=pytest.mark.release),
    ],
)
def test_a_signal_before_training_ends_it_with_75(tmp_path, module, place, number):
    """Even while torch is imported, and in a process that the launcher has started."""
    options = ["--devices", "2", "--accelerator", "cpu"] if place == "rank" else []
    program = [sys.executable, "-c", _STOPPED_AT_IMPORT, module, place, str(int(number))]
    command = [*program, *options, "--out", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 75, ended.stderr
    assert ended.stderr == f"kat: stopped by {number.name}\n"
    assert not list(tmp_path.glob("run/*"))


@pytest.fixture
def request_to_stop():
    request = StopRequest()
    request.watch()
    yield request
    request.release()


@pytest.mark.parametrize("number", sorted(REQUESTS_TO_STOP))
def test_a_signal_is_noted_and_the_handlers_of_before_come_back(number):
    before = {each: signal.getsignal(each) for each in REQUESTS_TO_STOP}
    request = StopRequest()
    request.watch()
    assert request.signal is None
    signal.raise_signal(number)
    assert request.signal is number
    request.release()
    assert {each: signal.getsignal(each) for each in REQUESTS_TO_STOP} == before


def test_a_second_interruption_acts_at_once(request_to_stop):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """SLURM's program of that name: notes how it was called, and exits as it is told to."""

    def make(code):
        path, called = tmp_path / "scontrol", tmp_path / "called"
        path.write_text(f'#!/bin/sh\necho "$@" > {called}\necho no such job >&2\nexit {code}')
        path.chmod(0o755)
        return called

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return make


def test_a_job_is_put_back_into_the_queue(scontrol, monkeypatch):
    assert requeue_slurm_job() == "not requeued: this is not a SLURM job"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    called = scontrol(0)
    assert requeue_slurm_job() == "job 12 requeued"
    assert called.read_text() == "requeue 12\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue_slurm_job() == "job 10_3 requeued"
    assert called.read_text() == "requeue 10_3\n"


def test_what_keeps_a_job_out_of_the_queue_is_said(scontrol, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    scontrol(1)
    assert requeue_slurm_job() == "job 12 was not requeued: no such job"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert requeue_slurm_job().endswith("scontrol is not installed")
