"""The checkpoints of a run: when they are written, what a run goes on from, when it stops."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from kat.checksum import verify_checksum
from kat.data import STEP, Loader, derived_seed, seed_all
from kat.errors import InputError, Interrupted
from kat.files import link_or_copy
from kat.training.config import CheckpointConfig
from kat.training.distributed import any_of, gather
from kat.training.divergence import DivergenceGuard
from kat.training.position import Position, set_counters
from kat.training.run_directory import BEST, LAST, remove_results, write_records
from kat.training.saving import save_checkpoint
from kat.training.sharding import FullySharded
from kat.training.signals import REQUEUE, StopRequest, requeue_slurm_job


class Checkpoints(Checkpoint):
    """Writes last.ckpt and best.ckpt, and stops a run that is asked to.

    last.ckpt is written at the start (of whole weights), after every epoch, and within an epoch
    whenever the interval is over; the one before it is kept as previous.ckpt. best.ckpt is the
    last.ckpt of the epoch with the highest score on the validation split, the first of its task's;
    of an epoch that a limit cuts short only where there is no whole one. Signals (SIGTERM, SIGINT,
    SIGUSR1) are acted on after the step, or the batch of the validation, in which they come:
    last.ckpt is written, and :class:`kat.errors.Interrupted` ends the run.

    Args:
        out: the run's folder.
        interval: of checkpoints within an epoch.
        guard: has the state checked before it is kept.
    """

    def __init__(self, out: Path, interval: CheckpointConfig, guard: DivergenceGuard) -> None:
        self.out = out
        self.interval = interval
        self.guard = guard
        self.best: dict[str, float] = {}
        """epoch (from 1) and scores of best.ckpt."""
        self.holds_best = False
        """Whether the checkpoint that is being written is what best.ckpt is to be."""
        self.seconds_before = 0.0
        self.started_at: float | None = None
        self.saved_at = time.monotonic()
        self.saved_step = 0
        self.common_batches = 0
        self.cut_short = False
        """Whether the epoch ends before its data, for a limit: last.ckpt is then of that moment."""
        self.request = StopRequest()

    def seconds(self) -> float:
        """Of training and validation, from the start of the run, what was lost left out."""
        here = 0.0 if self.started_at is None else time.monotonic() - self.started_at
        return self.seconds_before + here

    def state_dict(self) -> dict[str, Any]:
        """What best.ckpt is of, and the time that was taken."""
        return {"best": self.best, "holds_best": self.holds_best, "seconds": self.seconds()}

    def on_load_checkpoint(
        self, trainer: Any, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes up for a best.ckpt that a run was stopped before it could write."""
        holds_best = checkpoint["callbacks"][self.state_key]["holds_best"]
        if holds_best and trainer.is_global_zero:
            link_or_copy(Path(trainer.ckpt_path), self.out / BEST)
        trainer.strategy.barrier()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with it, unless best.ckpt is gone: then the best of the epochs to come counts."""
        self.seconds_before = state_dict["seconds"]
        if not state_dict["best"]:
            return
        try:
            verify_checksum(self.out / BEST, required=True)
        except InputError as error:
            sys.stdout.write(f"{error}: the best of the epochs to come takes its place\n")
        else:
            self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Takes over the signals; keeps the start of a run."""
        self.request.watch()
        if trainer.is_global_zero:
            remove_results(self.out)
        self.started_at = self.saved_at = time.monotonic()
        self.saved_step = trainer.global_step
        # To collect moments of sharded weights that are not there yet, PyTorch takes a step with
        # gradients of 0 (torch.distributed.checkpoint), which momentum and step counts remember.
        if trainer.global_step == 0 and not isinstance(trainer.strategy, FullySharded):
            self._save(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Saves where it is time, or the run is to stop; the end of the epoch is seen to later."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or loop._num_ready_batches_reached():
            return
        self.cut_short = trainer.should_stop
        wanted = self.cut_short or self._due(trainer) or self.request.signal is not None
        if not self._any(trainer, wanted):
            return
        self.guard.check_state(trainer, pl_module)
        self._save(trainer)
        self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Any, pl_module: LightningModule) -> None:
        """Counts the batches that every process has; of a stream one may have one less."""
        batches = int(trainer.num_val_batches[0])
        self.common_batches = batches if trainer.world_size == 1 else min(gather(batches)) - 1

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Saves and stops, if the run is to, at a batch that all processes have."""
        asked = self.request.signal is not None
        if batch_idx < self.common_batches and self._any(trainer, asked):
            self._save(trainer)
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Keeps the epoch, and the best one."""
        row = pl_module.history[-1]
        names = [score.name for score in pl_module.scores]
        better = not self.best or (not self.cut_short and _higher(row, self.best, names[0]))
        if better:
            self.best = {name: row[name] for name in ("epoch", *names)}
        self.holds_best = better
        if not self.cut_short:
            self._save(trainer)
        self.holds_best = False
        if better and self.cut_short:
            save_checkpoint(trainer, self.out / BEST)
        elif better and trainer.is_global_zero:
            link_or_copy(self.out / LAST, self.out / BEST)
        if trainer.is_global_zero:
            write_records(self.out, pl_module.history, pl_module.skipped)
        if row["epoch"] < (trainer.max_epochs or 0):
            self._stop_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the signals back."""
        self.request.release()

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Gives the signals back."""
        self.request.release()

    def _due(self, trainer: Trainer) -> bool:
        steps, minutes = self.interval.every_n_steps, self.interval.every_n_minutes
        if steps is not None and trainer.global_step - self.saved_step >= steps:
            return True
        waited = time.monotonic() - self.saved_at
        return minutes is not None and trainer.is_global_zero and waited >= 60 * minutes

    def _save(self, trainer: Trainer) -> None:
        save_checkpoint(trainer, self.out / LAST)
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if not self._any(trainer, self.request.signal is not None):
            return
        line = f"stopped at step {trainer.global_step}; --resume auto goes on from it"
        if self._any(trainer, self.request.signal is REQUEUE) and trainer.is_global_zero:
            line += f"; {requeue_slurm_job()}"
        raise Interrupted(line)

    def _any(self, trainer: Trainer, here: bool) -> bool:
        return any_of(here, trainer.strategy.root_device)


def _higher(row: dict[str, float], best: dict[str, float], name: str) -> bool:
    """Whether a row has the higher score; NaN, the AP where nothing counts, is the lowest."""
    return row[name] > best[name] or math.isnan(best[name]) > math.isnan(row[name])


class ExactResume(Callback):
    """Makes a resumed run the same, bit by bit, as one that was never stopped.

    What a step draws is a function of (seed, epoch, batch, process); the loader begins at the batch
    after the last that is in the weights; Lightning's counters are set accordingly.

    Args:
        loader: of the training split.
        seed: of the run.
    """

    def __init__(self, loader: Loader, seed: int) -> None:
        self.loader = loader
        self.seed = seed

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the position."""
        checkpoint["position"] = vars(Position.of(trainer, self.loader.batch_size))

    def on_load_checkpoint(
        self, trainer: Any, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts loader and counters there."""
        saved = Position(**checkpoint["position"])
        trainer.fit_loop.setup_data()
        batches = int(trainer.num_training_batches)
        position = saved.divided(
            trainer.world_size, self.loader.batch_size, trainer.accumulate_grad_batches, batches
        )
        if position is not saved:
            pl_module.print(
                f"resumed by {position.processes} processes with batches of {position.batch_size} x"
                f" {position.accumulate}, saved by {saved.processes} with {saved.batch_size} x"
                f" {saved.accumulate}: the data goes on where it was, but the results are not those"
                " of an uninterrupted run to the last bit"
            )
        self.loader.start_at(position.epoch, position.batch)
        if position.validating:
            self.loader.start_at(position.epoch + 1, 0)
        set_counters(checkpoint["loops"]["fit_loop"], position, batches)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds all that the step draws."""
        place = trainer.current_epoch, batch_idx, trainer.global_rank
        seed_all(derived_seed(STEP, self.seed, *place))
