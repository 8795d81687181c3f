"""Lightning's Trainer as the commands use it: quiet, and in one line where it refuses."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kat.errors import InputError

_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*smaller than the logging interval.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    "Checkpoint directory .* exists and is not empty.*",
    "Found .* module.* in eval mode at the start of training.*",
)


def make_trainer(**settings: Any) -> Trainer:
    """A Trainer with these settings.

    Raises:
        InputError: Lightning refuses them.
    """
    try:
        return Trainer(
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the run cannot be set up: {' '.join(str(error).split())}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Hides Lightning's advice and advertisements that do not apply here."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _ADVICE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_first_process() -> bool:
    """Whether this process is the one that checks, writes and prints, also before the others start.

    The launchers say by their environment variables which process of how many this is.
    """
    node = int(os.environ.get("GROUP_RANK") or os.environ.get("NODE_RANK") or 0)
    rank: int | None = getattr(rank_zero_only, "rank", None)
    return node == 0 and (rank or 0) == 0
