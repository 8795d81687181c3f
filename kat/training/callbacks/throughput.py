"""How fast a run trains, how long it waits for data, how much memory it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from kat.data import Batch
from kat.machine import memory_bytes, peak_bytes, worker_peak_bytes
from kat.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from kat.training.build import Run

Item = TypeVar("Item")


class Work(NamedTuple):
    """What a training loop has done in some time.

    Args:
        images: trained on, in all processes.
        batches: the batches of this process.
        seconds: wall time, without validation.
        waited: the part of ``seconds`` in which this process waited for its loader.
    """

    images: int = 0
    batches: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def since(self, earlier: Work) -> Work:
        """What was done after ``earlier``."""
        return Work._make(now - then for now, then in zip(self, earlier, strict=True))

    def after(self, earlier: Work) -> Work:
        """What was done then and since."""
        return Work._make(now + then for now, then in zip(self, earlier, strict=True))

    @property
    def images_per_second(self) -> float:
        """images / seconds."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_per_batch(self) -> float:
        """seconds / batches."""
        return self.seconds / self.batches if self.batches > 0 else 0.0

    @property
    def wait_share(self) -> float:
        """waited / seconds."""
        return self.waited / self.seconds if self.seconds > 0 else 0.0


class Meter:
    """Adds up the work of a training loop by the wall clock; it never waits for the device.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.work = Work()
        self._since: float | None = None

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; the time until each is there counts as waiting."""
        iterator = iter(items)
        while True:
            asked = self.clock()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.work = self.work._replace(waited=self.work.waited + self.clock() - asked)
            yield item

    def resume(self) -> None:
        """Lets the clock run."""
        if self._since is None:
            self._since = self.clock()

    def pause(self) -> None:
        """Stops the clock until it is resumed."""
        self.read()
        self._since = None

    def count(self, images: int) -> None:
        """Adds a batch that was trained on."""
        work = self.work
        self.work = work._replace(images=work.images + images, batches=work.batches + 1)

    def read(self) -> Work:
        """All work so far."""
        if self._since is not None:
            now = self.clock()
            self.work = self.work._replace(seconds=self.work.seconds + now - self._since)
            self._since = now
        return self.work


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
        """How many rows this epoch has."""
        self.validation = 0.0
        """Seconds of the last validation."""
        self.peak = 0
        """The peak memory of this process in bytes, resumptions included; read when it is saved."""
        self.worker_peak = 0
        """That of all workers which load training images, read at rows and at ends of epochs."""
        self._before = Work()
        self._work = Work()
        self._epoch = self._row = Work()
        self._device = torch.device("cpu")

    def state_dict(self) -> dict[str, Any]:
        """The work and the peak memory so far, and the rows of this epoch."""
        self._read_peak()
        return {
            "work": tuple(self.total),
            "peak": self.peak,
            "worker_peak": self.worker_peak,
            "rows": self.rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Adds to it what is to come."""
        self._before = Work(*state["work"])
        self.peak, self.worker_peak = state["peak"], state["worker_peak"]
        self.rows = state["rows"]

    @property
    def total(self) -> Work:
        """All work of the run, resumptions included."""
        return self.meter.read().after(self._before)

    @property
    def epoch(self) -> Work:
        """The work since the epoch began, or was resumed."""
        return self.meter.read().since(self._epoch)

    def on_fit_start(self, run: Run) -> None:
        """Finds the meter of the loop."""
        self.meter, self._device = run.meter, run.device

    def on_epoch_start(self, run: Run) -> None:
        """Starts the clock."""
        self.meter.resume()
        self._epoch = self._row = self.meter.read()
        if run.state.batch == 0:
            self.rows = 0

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Counts the batch, and logs when it is time."""
        self.meter.count(len(batch.labels) * run.world.size)
        due = stepped and run.state.step % run.config.log_every_n_steps == 0
        if due or run.state.validating:  # the workers of a stream end with the epoch
            self.worker_peak = max(self.worker_peak, worker_peak_bytes())
        if due:
            now = self.meter.read()
            self.recent, self._row = now.since(self._row), now
            self._log(run)

    def on_validation_start(self, run: Run) -> None:
        """Stops the clock for validation, which is timed apart; logs an epoch without a row.

        A run that is resumed in its validation has trained on nothing, and logs nothing.
        """
        if self.rows == 0 and self.epoch.batches > 0:
            self.recent = self.epoch
            self._log(run)
        self.meter.pause()
        self._validating = self.meter.clock()

    def on_validation_end(self, run: Run) -> None:
        """Notes how long it took."""
        self.validation = self.meter.clock() - self._validating

    def on_fit_end(self, run: Run) -> None:
        """Reads the peak memory before anything else is loaded."""
        self._read_peak()

    def _read_peak(self) -> None:
        self.peak = max(self.peak, peak_bytes(self._device))

    def seconds_left(self, run: Run) -> tuple[float, float]:
        """Until the end of the epoch's training, and of the run; infinite where it is unknown."""
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
        run.log(
            {
                **({} if run.loss is None else {"train/loss_step": run.loss.item()}),
                "speed/images_per_second": self.recent.images_per_second,
                "speed/seconds_per_step": self.recent.seconds_per_batch
                * run.state.division.accumulate,
                "speed/data_wait": self.recent.wait_share,
                "speed/memory_gb": memory_bytes(run.device) / 1e9,
                "speed/lr": run.schedule.learning_rate,
            }
        )
