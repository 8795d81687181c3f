"""The meter of the training loop and what is read from it, by a clock that the test sets."""

from __future__ import annotations

import pytest

from kat.training import OptimConfig
from kat.training.callbacks.throughput import Throughput
from kat.training.engine.loop import fit
from kat.training.record.meter import Meter, Work
from kat.training.record.run import Callback
from tests.training.small import Batches, Clock, batches, make_run

pytestmark = pytest.mark.slow


def test_throughput_and_waiting_leave_out_what_is_paused():
    clock = Clock()
    meter = Meter(clock)

    def loaded(waits):
        for wait in waits:
            clock.passes(wait)
            yield wait

    items = meter.timed(loaded((1.0, 0.5, 50.0)))
    for compute, _ in zip((3.0, 3.5), items, strict=False):
        clock.passes(compute)
        meter.count(16)
    items.close()
    first = meter.read()
    clock.passes(100)
    for _ in meter.timed(loaded((0.0,))):
        clock.passes(2)
        meter.count(8)
    assert first == Work(images=32, batches=2, seconds=8.0, waited=1.5)
    assert (first.images_per_second, first.seconds_per_batch) == (4.0, 4.0)
    assert first.wait_share == 1.5 / 8
    assert meter.read().since(first) == Work(8, 1, 2.0, 0.0)
    assert Work().images_per_second == Work().seconds_per_batch == Work().wait_share == 0


class Computing(Callback):
    """Lets time pass in the steps."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds = clock, seconds

    def on_batch_start(self, run, index):
        self.clock.passes(self.seconds)


def _fit(clock, load, compute, val_load, **settings):
    """Two epochs of four batches, each of which takes so long to load and to compute."""
    throughput = Throughput()
    training = Batches(batches(4), lambda: clock.passes(load))
    validation = Batches(batches(4), lambda: clock.passes(val_load))
    run = make_run(
        training, validation, Computing(clock, compute), throughput, epochs=2, **settings
    )
    run.meter = Meter(clock)
    fit(run)
    return throughput, run.meter.read()


def test_the_loop_waits_for_the_loader_of_the_training_split_and_validation_is_timed_apart():
    throughput, total = _fit(Clock(), load=0.5, compute=1.5, val_load=10)
    assert throughput.recent == Work(images=32, batches=4, seconds=8.0, waited=2.0)
    assert total == Work(images=64, batches=8, seconds=16.0, waited=4.0)
    assert throughput.validation == 40


def test_a_resumed_run_adds_to_the_work_and_the_peak_before_it():
    before, _ = _fit(Clock(), load=0.5, compute=1.5, val_load=0)
    after = Throughput()
    after.load_state_dict(before.state_dict() | {"peak": 2**50, "worker_peak": 2**40})
    run = make_run(batches(1), None, after, epochs=1)
    run.meter = Meter(Clock())
    fit(run)
    assert run.meter.read() == Work(images=72, batches=9, seconds=16.0, waited=4.0)
    assert (after.peak, after.worker_peak) == (2**50, 2**40)


class Estimates(Callback):
    """The seconds left, epoch and run, after so many batches of an epoch; there the run stops."""

    def __init__(self, throughput, epoch, batch):
        self.throughput, self.at = throughput, (epoch, batch)

    def on_batch_end(self, run, index, batch, stepped):
        if (run.state.epoch, index + 1) == self.at:
            self.seconds = self.throughput.seconds_left(run)
            run.should_stop = True


@pytest.mark.parametrize(
    ("settings", "run_seconds"),
    [
        ({}, (8 * 10 + 6) * 0.5 + 8.6 * 20),
        ({"limit_epochs": 2}, 6 * 0.5 + 0.6 * 20),
        ({"max_steps": 8}, 2 * 0.5 + 0.2 * 20),
        ({"max_steps": 6}, 0.0),
    ],
)
def test_time_left(settings, run_seconds):
    """Half a second a batch, 4 of 10 batches of epoch 2 of 10 done, 20 s for a validation."""
    clock, throughput = Clock(), Throughput()
    estimates = Estimates(throughput, 1, 4)
    run = make_run(
        Batches(batches(10), lambda: clock.passes(0.5)),
        Batches(batches(2), lambda: clock.passes(10)),
        throughput,
        estimates,
        epochs=10,
        optim=OptimConfig(accumulate_grad_batches=2),
        **settings,
    )
    run.meter = Meter(clock)
    fit(run)
    assert estimates.seconds == pytest.approx((3.0, run_seconds))
