"""The stability monitor in a run: when it records, and when it leaves a record alone."""

from __future__ import annotations

import csv

import pytest

from kat.errors import InputError
from kat.nn.stability import StabilityMonitor
from kat.training.callbacks.checkpoints import Checkpoints
from kat.training.callbacks.stability import StabilityRecorder
from kat.training.engine.loop import fit
from kat.training.record.run import Callback
from tests.training.small import batches, make_run


def _recorder(run, interval):
    monitor = StabilityMonitor(interval)
    monitor.attach(run.model)
    return StabilityRecorder(monitor)


def _fail(run):
    raise InputError("no")


@pytest.mark.parametrize("hook", ["on_fit_start", "on_before_step"])
def test_a_run_that_stops_before_its_first_step_writes_no_record(tmp_path, hook):
    broken = Callback()
    setattr(broken, hook, _fail)
    record = tmp_path / "stability.csv"
    record.write_text("the record so far")
    run = make_run(batches(2), out=tmp_path)
    run.callbacks = [broken, _recorder(run, 1)]
    with pytest.raises(InputError, match="no"):
        fit(run)
    assert record.read_text() == "the record so far"


def test_a_run_records_the_steps_that_are_due_and_the_last(tmp_path):
    run = make_run(batches(5), out=tmp_path, epochs=2)
    run.callbacks = [_recorder(run, 4), Checkpoints()]
    fit(run)
    with (tmp_path / "stability.csv").open(newline="") as file:
        assert sorted({int(row["step"]) for row in csv.DictReader(file)}) == [0, 4, 8, 9]
