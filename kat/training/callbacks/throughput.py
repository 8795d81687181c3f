"""Measure throughput, waiting for data, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kat.data import Batch
from kat.machine import memory_bytes, peak_bytes, reset_peak, worker_peak_bytes
from kat.training.record.meter import Work
from kat.training.record.run import Callback, Run


class Throughput(Callback):
    """Reads the run's meter, and logs ``speed/...`` every ``log_every_n_steps`` steps.

    Logged are the loss of the last batch, images_per_second, seconds_per_step, data_wait (the share
    of the time in which the loop waited for its loader), memory_gb and lr; means over the steps
    since the last row. An epoch of fewer steps has one row, at its end. Validation is not counted.
    """

    name = "throughput"

    def __init__(self) -> None:
        self.recent = Work()
        """The work between the last two rows of the epoch."""
        self.rows = 0
        """Rows of this epoch."""
        self.validation = 0.0
        """Seconds of the last validation."""
        self.peak = 0
        """The peak memory of this process in bytes, resumptions included; read when it is saved."""
        self.worker_peak = 0
        """The peak memory of all workers that load training images, read at rows and epochs."""
        self._before = Work()
        self._epoch = self._row = Work()

    def state_dict(self) -> dict[str, Any]:
        """Return the work and the peak memory so far, and the rows of this epoch."""
        self._read_peak()
        return {
            "work": tuple(self.meter.read()),
            "peak": self.peak,
            "worker_peak": self.worker_peak,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self._before = Work._make(state["work"])
        self.peak, self.worker_peak = state["peak"], state["worker_peak"]
        self.rows = state["rows"]

    @property
    def epoch(self) -> Work:
        """The work since the epoch began, or was resumed."""
        return self.meter.read().since(self._epoch)

    def on_fit_start(self, run: Run) -> None:
        """Find the meter of the loop, and add the work before a resumption to it."""
        self.meter, self._device = run.meter, run.device
        self.meter.work = self._before
        reset_peak(run.device)  # of an earlier run in this process

    def on_epoch_start(self, run: Run) -> None:
        """Note where the work of the epoch begins."""
        self._epoch = self._row = self.meter.read()
        if run.state.batch == 0:
            self.rows = 0

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Log when it is time."""
        due = stepped and run.state.step % run.config.log_every_n_steps == 0
        if due or run.state.validating:
            self.worker_peak = max(self.worker_peak, worker_peak_bytes())
        if due:
            now = self.meter.read()
            self.recent, self._row = now.since(self._row), now
            self._log(run)

    def on_validation_start(self, run: Run) -> None:
        """Start the clock of the validation; log an epoch without a row.

        A run that is resumed in its validation has trained on nothing, and logs nothing.
        """
        if self.rows == 0 and self.epoch.batches > 0:
            self.recent = self.epoch
            self._log(run)
        self._validating = self.meter.clock()

    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Record the time of the validation."""
        self.validation = self.meter.clock() - self._validating

    def on_fit_end(self, run: Run) -> None:
        """Read the peak memory before anything else is loaded."""
        self._read_peak()

    def _read_peak(self) -> None:
        self.peak = max(self.peak, peak_bytes(self._device))

    def seconds_left(self, run: Run) -> tuple[float, float]:
        """Return the time to the end of the epoch's training and of the run; may be infinite."""
        per_batch, state = self.epoch.seconds_per_batch, run.state
        last = min(run.config.epochs, run.config.limit_epochs or run.config.epochs)
        left = (last - state.epoch) * run.batches - state.batch
        if run.config.max_steps is not None:
            steps = run.config.max_steps - state.step
            left = min(left, steps * state.division.accumulate)
        return (
            (run.batches - state.batch) * per_batch,
            max(left, 0.0) * (per_batch + self.validation / run.batches),
        )

    def _log(self, run: Run) -> None:
        self.rows += 1
        recent = self.recent
        values = {} if run.loss is None else {"train/loss_step": run.loss.item()}
        values["speed/images_per_second"] = recent.images_per_second
        values["speed/seconds_per_step"] = recent.seconds_per_batch * run.state.division.accumulate
        values["speed/data_wait"] = recent.wait_share
        values["speed/memory_gb"] = memory_bytes(run.device) / 1e9
        values["speed/lr"] = run.schedule.learning_rate
        run.log(values)
