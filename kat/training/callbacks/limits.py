"""Stop a run before its last epoch."""

from __future__ import annotations

import math
import time

from kat.data import Batch
from kat.text import counted
from kat.training.cluster.collectives import any_of
from kat.training.config import parse_time
from kat.training.record.run import Callback, Run


class Limits(Callback):
    """Stops a run at its first limit.

    The learning rate follows the schedule of the whole run, so that a resumed run is the run that
    was not stopped. ``limit_epochs`` and ``early_stopping`` stop at the end of an epoch;
    ``max_steps`` and ``max_time`` end the epoch, which is then validated and kept.

    """

    def on_fit_start(self, run: Run) -> None:
        """Start the clock of max_time; a resumed run may be at its limit already."""
        self.start = time.monotonic()
        self.on_epoch_end(run)

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Stop after the last step that a limit allows, not between the batches of a step."""
        if not stepped:
            return
        self._stop_at_epochs_or_steps(run)
        if run.config.max_time is not None:
            over = time.monotonic() - self.start >= parse_time(run.config.max_time)
            run.should_stop |= any_of(over, run.device)

    def on_epoch_end(self, run: Run) -> None:
        """Stop after the last epoch that a limit allows."""
        self._stop_at_epochs_or_steps(run)
        since = run.state.epochs_since_best
        patience = run.config.early_stopping or math.inf
        if patience <= since and run.state.epoch < run.epochs:
            run.should_stop = True
            run.print(
                f"stopped early: none of {counted(since, 'epoch')} since epoch"
                f" {run.state.best['epoch']:.0f} is better"
            )

    def _stop_at_epochs_or_steps(self, run: Run) -> None:
        epochs, steps = run.config.limit_epochs or math.inf, run.config.max_steps or math.inf
        run.should_stop |= run.state.epoch >= epochs or run.state.step >= steps
