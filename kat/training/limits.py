"""When a run stops before its last epoch, and how much of the data an epoch takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from kat.data import Loader
from kat.errors import InputError
from kat.training.config import TrainConfig, parse_time
from kat.training.distributed import any_of


class Limits(Callback):
    """Stops a run at the first limit that it reaches; what it has learned is kept.

    The learning rate goes on as if there were none, so that a resumed run is the run that was not
    stopped. After ``limit_epochs`` the run stops at the end of the epoch; ``max_steps`` and
    ``max_time`` end the epoch, which is then validated and kept.

    Args:
        config: has the limits.
        clock: gives seconds.
    """

    def __init__(self, config: TrainConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.epochs = config.limit_epochs
        self.steps = config.max_steps
        self.seconds = None if config.max_time is None else parse_time(config.max_time)
        self.clock = clock

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of max_time."""
        self.start = self.clock()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves a resumed run alone that is at its limit already."""
        epochs, steps = trainer.current_epoch, trainer.global_step
        if (self.epochs or epochs + 1) <= epochs or (self.steps or steps + 1) <= steps:
            trainer.should_stop = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stops after the last step that a limit allows; a step that waits for batches goes on."""
        if trainer.fit_loop._should_accumulate():
            return
        if self.steps is not None and trainer.global_step >= self.steps:
            trainer.should_stop = True
        if self.seconds is not None:
            over = self.clock() - self.start >= self.seconds
            if any_of(over, trainer.strategy.root_device):
                trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops after the last epoch that a limit allows."""
        if self.epochs is not None and trainer.current_epoch + 1 >= self.epochs:
            trainer.should_stop = True


def limited(total: int, limit: int | float | None) -> int:
    """How many of ``total`` batches a limit leaves: a number of them, or as a float their share."""
    if limit is None:
        return total
    return int(total * limit) if isinstance(limit, float) else min(total, limit)


def check_share(name: str, limit: int | float | None, total: int | None) -> None:
    """Checks that a limit leaves at least one batch.

    Args:
        name: of the setting.
        limit: as in :func:`limited`.
        total: how many batches there are, or None for a stream that does not know.

    Raises:
        InputError: it leaves none, or is a share of nobody knows how many.
    """
    if not isinstance(limit, float) or limit == 1.0:
        return
    if total is None:
        raise InputError(f"{name}={limit} is a share, but this data does not know its length")
    if limited(total, limit) < 1:
        raise InputError(f"{name}={limit} of {total} batches is less than one batch")


def length(loader: Loader) -> int | None:
    """How many batches a loader has; None for a stream that does not know."""
    try:
        return len(loader)
    except TypeError:
        return None
