"""What a run says while it trains: its speed in the logs, lines, and a bar in a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

from kat.text import duration, scaled
from kat.training.config import TrainConfig
from kat.training.tasks.metrics import Score
from kat.training.throughput import Meter, Work, memory_bytes, peak_bytes

QUIET_SECONDS = 30.0
"""The least time between two lines within an epoch."""


class SpeedLog(Callback):
    """Reads the meter every ``log_every_n_steps``, logs ``speed/...``; the first of the callbacks.

    Logged are images_per_second, seconds_per_step, data_wait (the share of the time in which the
    loop waited for its loader), memory_gb and lr, means over the steps since the last row. An epoch
    of fewer steps has one row, at its end. Validation is no part of them.

    Args:
        meter: the Trainer's profiler.
        config: the run's settings.
    """

    def __init__(self, meter: Meter, config: TrainConfig) -> None:
        self.meter = meter
        self.config = config
        self.recent = Work()
        """The work between the last two rows of the epoch."""
        self.rows = 0
        """How many rows this epoch has."""
        self.before = Work()
        """What was done before the run was resumed."""
        self.peak_before = 0
        self.validation = 0.0
        """Seconds of the last validation."""
        self.device = torch.device("cpu")
        self._epoch = self._row = Work()
        self._step = 0
        self._batches = 0

    @property
    def total(self) -> Work:
        """All work of the run, resumptions included."""
        return self.meter.read().after(self.before)

    def peak(self, device: torch.device) -> int:
        """The most bytes of memory that the run has taken, resumptions included."""
        return max(self.peak_before, peak_bytes(device))

    def state_dict(self) -> dict[str, Any]:
        """The work and the memory so far."""
        return {"work": tuple(self.total), "peak": self.peak(self.device)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Adds to it what is to come."""
        self.before, self.peak_before = Work(*state_dict["work"]), state_dict["peak"]

    @property
    def epoch(self) -> Work:
        """The work since the epoch began, or the run was resumed in its middle."""
        return self.meter.read().since(self._epoch)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle."""
        self.device = trainer.strategy.root_device
        self._begin(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch."""
        self._begin(trainer, batches=0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and logs when it is time."""
        self.meter.count(len(batch.labels) * trainer.world_size)
        self._batches = batch_idx + 1
        stepped = trainer.global_step > self._step
        self._step = trainer.global_step
        if stepped and self._step % self.config.log_every_n_steps == 0:
            now = self.meter.read()
            self.recent, self._row = now.since(self._row), now
            self._log(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock for validation, which is timed apart."""
        self.meter.pause()
        self._validating = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the clock run again."""
        self.validation = time.perf_counter() - self._validating
        self.meter.resume()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs an epoch that has no row yet."""
        if self.rows == 0:
            self.recent = self.epoch
            self._log(trainer)

    def seconds_left(self, trainer: Trainer) -> tuple[float, float]:
        """Until the end of the epoch's training, and of the run; infinite where nobody knows."""
        epoch, batches = self.epoch, float(trainer.num_training_batches)
        last = min(self.config.epochs, self.config.limit_epochs or self.config.epochs)
        left = (last - trainer.current_epoch) * batches - self._batches
        if self.config.max_steps is not None:
            steps = self.config.max_steps - trainer.global_step
            left = min(left, steps * trainer.accumulate_grad_batches)
        validation = self.validation / batches
        return (
            (batches - self._batches) * epoch.seconds_per_batch,
            max(left, 0.0) * (epoch.seconds_per_batch + validation),
        )

    def _begin(self, trainer: Trainer, batches: int) -> None:
        self.meter.resume()
        self._epoch = self._row = self.meter.read()
        self._step = trainer.global_step
        self._batches = batches
        self.rows = 0

    def _log(self, trainer: Trainer) -> None:
        self.rows += 1
        per_step = self.recent.seconds_per_batch * trainer.accumulate_grad_batches
        values: dict[str, float] = {
            "epoch": trainer.current_epoch,
            "speed/images_per_second": self.recent.images_per_second,
            "speed/seconds_per_step": per_step,
            "speed/data_wait": self.recent.wait_share,
            "speed/memory_gb": memory_bytes(trainer.strategy.root_device) / 1e9,
            "speed/lr": learning_rate(trainer),
        }
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step - 1)  # as Lightning counts its own


class EpochLines(Callback):
    """Prints one line an epoch: losses, scores, learning rate, speed, memory, time left.

    Args:
        speed: is called before this one.
    """

    def __init__(self, speed: SpeedLog) -> None:
        self.speed = speed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle."""
        self.start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Prints the line. Validation has run by now, and counts towards the time."""
        values = {
            "epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            "train loss": f"{pl_module.train_loss.compute():.4f}",
            **validation_values(trainer.callback_metrics, pl_module.scores),
            "lr": f"{learning_rate(trainer):.2e}",
            **speed_values(trainer, self.speed.epoch),
            "took": duration(time.perf_counter() - self.start),
            **_left("run", self.speed.seconds_left(trainer)[1]),
            **({"skipped files": str(len(pl_module.skipped))} if pl_module.skipped else {}),
        }
        pl_module.print(_line(values), flush=True)


class StepLines(Callback):
    """Prints a line within long epochs, where no bar shows how far a run is, as in a cluster's log.

    Args:
        speed: is called before this one; its rows are what is printed.
        seconds: the least time between two lines.
    """

    def __init__(self, speed: SpeedLog, seconds: float = QUIET_SECONDS) -> None:
        self.speed = speed
        self.seconds = seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle."""
        self._start(0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start(0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line if there is a new row, and the last line is long enough ago."""
        new = self.speed.rows > self.rows
        if not new or time.perf_counter() - self.printed < self.seconds:
            return
        self._start(self.speed.rows)
        total = trainer.num_training_batches
        values = {
            "epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}",
            "batch": f"{batch_idx + 1}" + (f"/{total}" if total < math.inf else ""),
            **progress_values(trainer, self.speed),
        }
        pl_module.print(_line(values), flush=True)

    def _start(self, rows: int) -> None:
        self.rows, self.printed = rows, time.perf_counter()


class Bar(RichProgressBar):
    """A progress bar in a terminal, with what :class:`StepLines` would print beside it.

    Args:
        speed: is called before this one.
    """

    def __init__(self, speed: SpeedLog) -> None:
        super().__init__(refresh_rate=4)  # its thread takes time from Python, and so from the loop
        self.speed = speed
        self.rows = -1
        self.values: dict[str, str] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The values change with a new epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        self.rows = -1

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> dict[str, Any]:
        """The values, made anew with every row and every epoch, and not with every batch."""
        if self.speed.rows != self.rows:
            self.rows = self.speed.rows
            progress = progress_values(trainer, self.speed)
            scores = validation_values(trainer.callback_metrics, pl_module.scores)
            self.values = {**progress, **scores}
        return dict(self.values)

    def _get_train_description(self, current_epoch: int) -> str:
        """Counts from 1, as the lines do."""
        description = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{description:{len(self.validation_description)}}"


def is_interactive(config: TrainConfig) -> bool:
    """Whether there is a terminal for a bar, and a bar is wanted."""
    return config.progress and sys.stdout.isatty()


def progress_values(trainer: Trainer, speed: SpeedLog) -> dict[str, str]:
    """How training goes within an epoch: loss, learning rate, speed, memory, time left."""
    loss = trainer.callback_metrics.get("train/loss_step")
    epoch, run = speed.seconds_left(trainer)
    return {
        **({} if loss is None else {"loss": f"{loss:.4f}"}),
        "lr": f"{learning_rate(trainer):.2e}",
        **speed_values(trainer, speed.recent),
        **_left("epoch", epoch),
        **_left("run", run),
    }


def speed_values(trainer: Trainer, work: Work) -> dict[str, str]:
    """Images a second of all processes; the first one's data wait and memory."""
    return {
        "images/s": f"{work.images_per_second:.4g}",
        "data wait": f"{100 * work.wait_share:.0f} %",
        "memory": scaled(memory_bytes(trainer.strategy.root_device), "B"),
    }


def validation_values(metrics: Mapping[str, Any], scores: Iterable[Score]) -> dict[str, str]:
    """Loss and scores of the weights that are kept, and of the raw ones where both are known.

    Args:
        metrics: by the names they are logged under.
        scores: of the task.
    """
    values = {}
    for name, label, digits in (_LOSS, *scores):
        kept, raw = metrics.get(f"val/{name}"), metrics.get(f"val/raw_{name}")
        if kept is not None:
            beside = "" if raw is None else f" (raw {float(raw):{digits}})"
            values[label] = f"{float(kept):{digits}}{beside}"
    return values


_LOSS = Score("loss", "val loss", ".4f")


def learning_rate(trainer: Trainer) -> float:
    """The rate of the schedule, without the factor that a group of parameters may have of its own.

    timm keeps such factors in the groups as lr_scale.
    """
    group = trainer.optimizers[0].param_groups[0]
    return float(group["lr"]) / float(group.get("lr_scale", 1.0))


def _left(what: str, seconds: float) -> dict[str, str]:
    return {f"{what} ends in": duration(seconds)} if 0 < seconds < math.inf else {}


def _line(values: Mapping[str, str]) -> str:
    return "  ".join(f"{label} {value}" for label, value in values.items())
