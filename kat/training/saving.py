"""Writing the state of a trainer: whole or not at all, sealed, or an error in all processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from kat.checksum import write_checksum
from kat.errors import CheckpointFailed
from kat.files import link_or_copy, replacing
from kat.text import scaled
from kat.training.run_directory import LAST, PREVIOUS


class SealedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, with their checksum inside.

    What was last.ckpt becomes previous.ckpt. Where writing fails, :attr:`failure` says why, and
    the files are as they were: the processes that wait for this one can then be told.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint."""
        path = Path(path)
        try:
            with replacing(path) as partial:
                torch.save(checkpoint, partial)
                write_checksum(partial)
                if path.name == LAST and path.exists():
                    link_or_copy(path, path.with_name(PREVIOUS))
        except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError
            free = scaled(shutil.disk_usage(path.parent).free, "B")
            reason = f"{' '.join(str(error).split())} ({free} free)"
            self.failure = f"{path} cannot be written: {reason}"


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Writes the state of a trainer; all processes must call it.

    Raises:
        CheckpointFailed: it cannot be written; in all processes.
    """
    trainer.save_checkpoint(path)
    failure = trainer.strategy.broadcast(getattr(trainer.strategy.checkpoint_io, "failure", None))
    if failure is not None:
        raise CheckpointFailed(
            f"{failure}. Training stops; the newest whole checkpoint is as it was. Make room, or"
            " let the folder be written to, and go on with --resume auto"
        )
