"""Print the progress of a run: lines, and a bar in a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from kat.data import Batch
from kat.machine import memory_bytes
from kat.text import duration, scaled
from kat.training.callbacks.throughput import Throughput
from kat.training.config import TrainConfig
from kat.training.record.meter import Work
from kat.training.record.run import Callback, Run

QUIET_SECONDS = 30.0
"""The least time between two lines within an epoch."""


class Lines(Callback):
    """Prints a line an epoch, and lines within long epochs, as the log of a cluster needs them.

    Args:
        throughput: is called before this one; its rows are printed.
        seconds: the least time between two lines within an epoch; inf where a bar shows the same.
    """

    def __init__(self, throughput: Throughput, seconds: float) -> None:
        self.throughput = throughput
        self.seconds = seconds

    def on_epoch_start(self, run: Run) -> None:
        """Start the clock."""
        self.rows, self.start = 0, time.perf_counter()
        self.printed = self.start

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Print a line if there is a new row, and the last line is long enough ago."""
        rows, now = self.throughput.rows, time.perf_counter()
        if rows == self.rows or now - self.printed < self.seconds:
            return
        self.rows, self.printed = rows, now
        values = {
            "epoch": f"{run.state.epoch + 1}/{run.config.epochs}",
            "batch": f"{index + 1}/{run.batches}",
            **progress_values(run, self.throughput),
        }
        run.print(_line(values))

    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Print the notes on the validation data, once."""
        for note in () if run.state.history else run.metrics.notes(run.record.classes):
            run.print(note)

    def on_epoch_end(self, run: Run) -> None:
        """Print the line; validation counts towards the time."""
        row = run.state.history[-1]
        values = {
            "epoch": f"{int(row['epoch'])}/{run.config.epochs}",
            "train loss": f"{row['train_loss']:.4f}",
        }
        values |= validation_values(row, run.task.metrics)
        values["lr"] = f"{run.schedule.learning_rate:.2e}"
        values |= speed_values(run, self.throughput.epoch)
        values["took"] = duration(time.perf_counter() - self.start)
        values |= _left("run", self.throughput.seconds_left(run)[1])
        run.print(_line(values))


class Bar(Callback):
    """Shows a progress bar in a terminal, with the values of the lines beside it.

    Args:
        throughput: is called before this one.
    """

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self.rows = -1
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_epoch_start(self, run: Run) -> None:
        """Start the bar of the epoch."""
        self._start(run, f"Epoch {run.state.epoch + 1}/{run.config.epochs}", run.batches)

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Advance the bar; the values are new with every row, not with every batch."""
        shown = {}
        if self.throughput.rows != self.rows:
            self.rows = self.throughput.rows
            values = progress_values(run, self.throughput)
            if run.state.history:
                values |= validation_values(run.state.history[-1], run.task.metrics)
            shown["values"] = _line(values)
        self._update(index + 1, **shown)

    def on_validation_start(self, run: Run) -> None:
        """Start the bar of the validation."""
        self._start(run, "Validation", run.val_batches)

    def on_validation_batch_end(self, run: Run, index: int, batch: Batch) -> None:
        """Advance the bar."""
        self._update(index + 1)

    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Remove the bar."""
        self._stop()

    def on_exception(self, run: Run) -> None:
        """Remove the bar."""
        self._stop()

    def _start(self, run: Run, description: str, total: int) -> None:
        self._stop()
        self.rows = -1
        if not run.is_first:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            transient=True,
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(description, total=total, values="")
        self.bar.start()

    def _update(self, completed: int, **fields: Any) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=completed, **fields)

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def is_interactive(config: TrainConfig) -> bool:
    """Return True if a bar is wanted, and there is a terminal for it."""
    return config.progress and sys.stdout.isatty()


def progress_values(run: Run, throughput: Throughput) -> dict[str, str]:
    """Return loss, learning rate, throughput, memory and the time left, within an epoch."""
    values = {}
    if run.loss is not None:
        values["loss"] = f"{run.loss.item():.4f}"
    values["lr"] = f"{run.schedule.learning_rate:.2e}"
    values |= speed_values(run, throughput.recent)
    epoch, whole = throughput.seconds_left(run)
    return values | _left("epoch", epoch) | _left("run", whole)


def speed_values(run: Run, work: Work) -> dict[str, str]:
    """Return images per second of all processes; data wait and memory of the first one."""
    return {
        "images/s": f"{work.images_per_second:.4g}",
        "data wait": f"{100 * work.wait_share:.0f} %",
        "memory": scaled(memory_bytes(run.device), "B"),
    }


def validation_values(
    row: Mapping[str, float], metrics: Iterable[tuple[str, str, str, bool]]
) -> dict[str, str]:
    """Return validation loss and metrics of the kept weights, and of the raw ones beside an EMA.

    Args:
        row: the row of the history.
        metrics: the metrics of the task: name, label, format, and where it is shown.
    """
    values = {}
    for name, label, spec, _ in (("val_loss", "val loss", ".4f", True), *metrics):
        kept, raw = row.get(name), row.get(f"raw_{name}")
        if kept is not None:
            beside = "" if raw is None else f" (raw {raw:{spec}})"
            values[label] = f"{kept:{spec}}{beside}"
    return values


def _left(what: str, seconds: float) -> dict[str, str]:
    return {f"{what} ends in": duration(seconds)} if 0 < seconds < math.inf else {}


def _line(values: Mapping[str, str]) -> str:
    return "  ".join(f"{label} {value}" for label, value in values.items())
