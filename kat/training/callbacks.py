"""What happens beside the training steps: the average of the weights, and a line an epoch."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor


class EmaWeights(WeightAveraging):
    """avg <- d avg + (1 - d) weights after each step, with d = min(decay, (1 + t) / (10 + t)).

    The average takes the weights' place in validation and in checkpoints. The warm-up lets a run
    of a few hundred steps forget its initial weights.

    Args:
        decay: d after the warm-up, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=partial(_average, decay))


def _average(decay: float, averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
    t = float(steps)
    return averaged.lerp(current, 1 - min(decay, (1 + t) / (10 + t)))


class EpochLines(Callback):
    """Prints one line an epoch: losses, top-1, learning rate, seconds."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Prints the line. Validation has run by now, and counts towards the seconds."""
        seconds = time.perf_counter() - self.start
        values = [
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            f"train loss {pl_module.train_loss.compute():.4f}",
            f"val loss {trainer.callback_metrics['val/loss']:.4f}",
            f"top-1 {trainer.callback_metrics['val/top1']:.2f}",
            f"lr {trainer.optimizers[0].param_groups[0]['lr']:.2e}",
            f"{seconds:.1f} s",
        ]
        pl_module.print("  ".join(values), flush=True)
