"""Lightning's Trainer as the commands use it: quiet, and in one line where it refuses."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from kat.errors import InputError
from kat.training.saving import SealedCheckpointIO
from kat.training.sharding import FullySharded

_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*smaller than the logging interval.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*recommended to use .self.log.*sync_dist=True.*",  # torchmetrics has done it
    ".*ended before the epoch ended and your dataloader is not resumable.*",  # ours is
    "Checkpoint directory .* exists and is not empty.*",
    "Found .* module.* in eval mode at the start of training.*",
)


def make_trainer(strategy: str = "auto", **settings: Any) -> Trainer:
    """A Trainer with these settings, whose checkpoints are whole or not there.

    Args:
        strategy: "fsdp", or a name of Lightning's.
        settings: of the Trainer.

    Raises:
        InputError: Lightning refuses them.
    """
    try:
        return Trainer(
            strategy=FullySharded() if strategy == "fsdp" else strategy,
            plugins=_plugins(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the run cannot be set up: {' '.join(str(error).split())}") from None


def _plugins() -> list[Any]:
    """Our checkpoints, and SLURM without Lightning's own, which would be a second kind of them."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [SealedCheckpointIO(), *slurm]


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
