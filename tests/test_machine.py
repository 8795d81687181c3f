"""The memory of this process and of the workers that it has started."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch

from kat import machine
from kat.machine import memory_bytes, peak_bytes, reset_peak, worker_peak_bytes

CPU, HELD = torch.device("cpu"), 160_000_000


@pytest.mark.parametrize(
    ("files", "limit"),
    [({}, None), ({"cpu.max": "max 100000\n"}, None), ({"cpu.max": "50000 100000\n"}, 1)],
)
def test_cores_are_those_of_the_affinity_and_the_quota(files, limit, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.cores() == (limit or len(os.sched_getaffinity(0)))


def _hold():
    """Memory from the operating system: an allocator would give what a test before it freed."""
    memory = mmap.mmap(-1, HELD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).fill_(1)


def _wait(connection):
    _hold()  # and gives it back
    connection.send("started")
    connection.recv()


def test_memory_is_that_of_the_process_and_its_workers():
    before = memory_bytes(CPU)
    held = _hold()
    with_tensor = memory_bytes(CPU)
    assert with_tensor - before == pytest.approx(held.nbytes, rel=0.2)
    own = peak_bytes(CPU)
    assert own >= with_tensor
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    worker = fork.Process(target=_wait, args=(there,))
    worker.start()
    try:
        assert here.recv() == "started"
        assert memory_bytes(CPU) > with_tensor
        assert HELD < worker_peak_bytes() < own + 1.2 * HELD
        assert peak_bytes(CPU) < own + 0.1 * HELD  # whether a worker runs or not
    finally:
        worker.kill()
        worker.join()
    assert worker_peak_bytes() == 0


def test_a_peak_begins_anew():
    held = torch.ones(HELD // 4)
    before = peak_bytes(CPU)
    size = held.nbytes
    del held
    reset_peak(CPU)
    assert peak_bytes(CPU) < before - size / 2


@pytest.mark.slow
def test_the_peak_of_a_process_is_not_that_of_its_parent():
    held = torch.ones(2 * HELD)
    code = "import torch, kat.machine as m; print(m.peak_bytes(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) < held.nbytes
