"""The meter of the training loop, by a clock that the test sets, and the memory it reports."""

from __future__ import annotations

import multiprocessing

import pytest
import torch

from kat.training.throughput import Meter, Work, memory_bytes, peak_bytes
from tests.training.small import fit_slowly

FETCH = "[_TrainingEpochLoop].train_dataloader_next"


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def __call__(self):
        return self.now


def test_speed_and_waiting_leave_out_what_is_paused():
    clock = Clock()
    meter = Meter(clock)
    meter.resume()
    for wait, compute in ((1.0, 3.0), (0.5, 3.5)):
        meter.start(FETCH)
        clock.now += wait
        meter.stop(FETCH)
        meter.start("[Callback]Something.on_train_batch_end")
        clock.now += compute
        meter.stop("[Callback]Something.on_train_batch_end")
        meter.count(16)
    first = meter.read()
    meter.pause()
    meter.start(FETCH)
    clock.now += 50
    meter.stop(FETCH)
    meter.resume()
    clock.now += 2
    meter.count(8)
    assert first == Work(images=32, batches=2, seconds=8.0, waited=1.5)
    assert (first.images_per_second, first.seconds_per_batch) == (4.0, 4.0)
    assert first.wait_share == 1.5 / 8
    assert meter.read().since(first) == Work(8, 1, 2.0, 0.0)
    assert Work().images_per_second == Work().seconds_per_batch == Work().wait_share == 0


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_the_trainer_tells_the_meter_when_it_waits_for_its_loader():
    meter = Meter()
    meter.resume()
    fit_slowly(0.05, 0.2, profiler=meter)
    assert 0.2 <= meter.read().waited < 0.5  # the loader of the validation split is another's


def test_memory_is_that_of_the_process_and_its_workers():
    cpu = torch.device("cpu")
    before = memory_bytes(cpu)
    held = torch.ones(40_000_000)
    with_tensor = memory_bytes(cpu)
    assert with_tensor - before == pytest.approx(held.nbytes, rel=0.2)
    assert peak_bytes(cpu) >= with_tensor
    context = multiprocessing.get_context("fork")
    running, done = context.Event(), context.Event()
    worker = context.Process(target=lambda: running.set() or done.wait())
    worker.start()
    try:
        assert running.wait(60)
        assert memory_bytes(cpu) > with_tensor
    finally:
        done.set()
        worker.join()
