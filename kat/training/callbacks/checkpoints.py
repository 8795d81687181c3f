"""Write checkpoints, and stop a run on a signal."""

from __future__ import annotations

import time

from kat.data import Batch
from kat.errors import InputError, Interrupted
from kat.files import link_or_copy
from kat.training.cluster.collectives import any_of, gather
from kat.training.cluster.signals import REQUEUE, StopRequest, requeue_slurm_job
from kat.training.record.checkpoint import save_checkpoint
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import BEST, LAST, RESULTS, Checkpoint, remove, write_records


class Checkpoints(Callback):
    """Writes last.ckpt and best.ckpt, and stops a run that is asked to; the last of the callbacks.

    last.ckpt is written at the start, after every epoch, and within an epoch whenever the interval
    is over; the one before it is kept as previous.ckpt. best.ckpt is the last.ckpt of the epoch
    that :meth:`kat.training.record.state.TrainState.mark_best` takes as the best. Signals (SIGTERM,
    SIGINT, SIGUSR1) are acted on after the step, or the batch of the validation, in which they
    come: last.ckpt is written, and :class:`kat.errors.Interrupted` ends the run.
    """

    def __init__(self) -> None:
        self.request = StopRequest()
        self._clock = self._saved_at = time.monotonic()
        self._saved_step = 0
        self._common_batches = 0

    def on_fit_start(self, run: Run) -> None:
        """Take over the signals; keep the start of a run, and the best of a resumed one."""
        self.request.watch()
        self._clock = self._saved_at = time.monotonic()
        self._saved_step = run.state.step
        if run.resumed_from is not None:
            _restore_best(run, run.resumed_from)
        if run.is_first:
            remove(run.out, RESULTS)
        if run.resumed_from is None:
            self._save(run)
        run.print_skipped()

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Save if a checkpoint is due or the run is to stop, except at the end of an epoch."""
        if not stepped or run.state.validating:
            return
        wanted = run.should_stop or self._due(run) or self.request.signal is not None
        if any_of(wanted, run.device):
            self._save(run)
            self._stop_if_asked(run)

    def on_validation_start(self, run: Run) -> None:
        """Count the batches that every rank has."""
        self._common_batches = min(gather(run.val_batches))

    def on_validation_batch_end(self, run: Run, index: int, batch: Batch) -> None:
        """Save and stop, if the run is to, at a batch that all ranks have."""
        asked = self.request.signal is not None
        if index < self._common_batches and any_of(asked, run.device):
            self._save(run)
            self._stop_if_asked(run)

    def on_epoch_end(self, run: Run) -> None:
        """Save the epoch, also as best.ckpt if it is the best."""
        state = run.state
        whole, better = state.batch == 0, state.holds_best
        if whole:
            self._save(run)
        if better and not whole:
            save_checkpoint(run, run.out / BEST)
        elif better and run.is_first:
            link_or_copy(run.out / LAST, run.out / BEST)
        state.holds_best = False
        self._write_records(run)
        if state.epoch < run.config.epochs:
            self._stop_if_asked(run)

    def on_fit_end(self, run: Run) -> None:
        """Write the records, which may be older in a resumed run, and release the signals."""
        self._write_records(run)
        self._count_seconds(run)
        self.request.release()

    def on_exception(self, run: Run) -> None:
        """Release the signals."""
        self.request.release()

    def _due(self, run: Run) -> bool:
        interval = run.config.checkpoint
        steps, minutes = interval.every_n_steps, interval.every_n_minutes
        if steps is not None and run.state.step - self._saved_step >= steps:
            return True
        waited = time.monotonic() - self._saved_at
        return minutes is not None and run.is_first and waited >= 60 * minutes

    def _save(self, run: Run) -> None:
        self._count_seconds(run)
        save_checkpoint(run, run.out / LAST)
        self._saved_at, self._saved_step = time.monotonic(), run.state.step

    def _write_records(self, run: Run) -> None:
        """Write the records, and print the files that any rank has skipped since the last time."""
        for skipped in gather(run.state.skipped):
            run.state.skipped |= skipped
        if run.is_first:
            write_records(run.out, run.state)
        run.print_skipped()

    def _count_seconds(self, run: Run) -> None:
        now = time.monotonic()
        run.state.seconds += now - self._clock
        self._clock = now

    def _stop_if_asked(self, run: Run) -> None:
        if not any_of(self.request.signal is not None, run.device):
            return
        line = f"stopped at step {run.state.step}; --resume auto continues from there"
        if any_of(self.request.signal is REQUEUE, run.device) and run.is_first:
            line += f"; {requeue_slurm_job()}"
        raise Interrupted(line)


def _restore_best(run: Run, checkpoint: Checkpoint) -> None:
    """Restore a best.ckpt that a run was stopped before it could write, or that is damaged.

    Where it is gone, or of another epoch than the best in the state, the best of the epochs to
    come takes its place.

    Raises:
        InputError: it is gone, and no epoch is to come; nothing of the run is changed then.
    """
    state, problem = run.state, checkpoint.without_best
    if state.holds_best and run.is_first:
        link_or_copy(checkpoint.path, run.out / BEST)
    elif state.best and problem and not state.holds_best:
        if state.epoch >= run.epochs or run.should_stop:
            raise InputError(f"{problem}; the run has ended, and nothing of it is changed")
        state.best = {}
        run.print(f"{problem}: the best of the epochs to come takes its place")
    state.holds_best = False
