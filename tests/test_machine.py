"""The memory of this process and of the workers that it has started."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from kat.machine import memory_bytes, peak_bytes


def _wait(connection):
    connection.send("started")
    connection.recv()


def test_memory_is_that_of_the_process_and_its_workers():
    cpu = torch.device("cpu")
    before = memory_bytes(cpu)
    held = torch.ones(40_000_000)
    with_tensor = memory_bytes(cpu)
    assert with_tensor - before == pytest.approx(held.nbytes, rel=0.2)
    assert peak_bytes(cpu) >= with_tensor
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    worker = fork.Process(target=_wait, args=(there,))
    worker.start()
    try:
        assert here.recv() == "started"
        assert memory_bytes(cpu) > with_tensor
    finally:
        worker.kill()
        worker.join()
