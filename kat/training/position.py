"""Where a run is, and Lightning's counters put there.

Lightning's own resumption depends on the hook in which a checkpoint was written, and skips the
validation of an epoch that was over but not validated. Here a checkpoint keeps a position, from
which the counters are made anew when it is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer


@dataclass(frozen=True)
class Position:
    """What of a run is in its weights.

    Args:
        epoch: epochs that are over.
        batch: batches of the next one, in each process, whose steps are taken.
        steps: steps of the optimiser in all.
        validating: whether all batches of the epoch are, and it is still to be validated.
        processes: how many share the data.
        batch_size: images in a batch of each.
        accumulate: batches a step.
    """

    epoch: int
    batch: int
    steps: int
    validating: bool
    processes: int
    batch_size: int
    accumulate: int

    @classmethod
    def of(cls, trainer: Trainer, batch_size: int) -> Position:
        """Where a trainer is, in whatever hook it is asked.

        A batch counts when its step is taken: before, and while its gradient waits for those of
        others, it is as if it had not been seen.
        """
        loop: Any = trainer.fit_loop
        epochs, stepping = loop.epoch_progress.current, loop.epoch_loop.automatic_optimization
        between = epochs.ready == epochs.processed
        over = loop.epoch_loop._num_ready_batches_reached()  # not so where a limit cut it short
        validating = bool(trainer.validating) and over and not between
        taken = stepping.optim_progress.optimizer.step.current.completed
        batch = taken * trainer.accumulate_grad_batches
        return cls(
            epoch=epochs.processed,
            batch=0 if between else int(trainer.num_training_batches) if validating else batch,
            steps=trainer.global_step,
            validating=validating,
            processes=trainer.world_size,
            batch_size=batch_size,
            accumulate=trainer.accumulate_grad_batches,
        )

    def divided(self, processes: int, batch_size: int, accumulate: int, batches: int) -> Position:
        """The position with another number of processes, batch size or accumulation.

        The epoch goes on at the step that contains the first image not seen, so that a few images
        may be seen twice, and the schedule at the step of the same place in the new epochs.

        Args:
            processes, batch_size, accumulate: as above.
            batches: in an epoch of each process.
        """
        last = math.ceil(batches / accumulate)
        images = self.batch * self.processes * self.batch_size
        taken = min(images // (processes * batch_size * accumulate), last)
        validating = self.validating or (self.batch > 0 and taken == last)
        division = (processes, batch_size, accumulate)
        same = division == (self.processes, self.batch_size, self.accumulate)
        if same and (self.batch == batches if validating else self.batch < batches):
            return self
        return Position(
            epoch=self.epoch,
            batch=batches if validating else taken * accumulate,
            steps=self.epoch * last + (last if validating else taken),
            validating=validating,
            processes=processes,
            batch_size=batch_size,
            accumulate=accumulate,
        )


def set_counters(fit_loop: dict[str, Any], position: Position, batches: int) -> None:
    """Makes the counters of a checkpoint's fit loop those of a position.

    Args:
        fit_loop: ``checkpoint["loops"]["fit_loop"]``, changed in place.
        position: where to go on.
        batches: in an epoch of each process.
    """
    epoch, batch, validating = position.epoch, position.batch, position.validating
    running = batch > 0
    started = epoch + running
    fit_loop["epoch_progress"] = _both(
        ready=started, started=started, processed=epoch, completed=epoch
    )
    total = epoch * batches + batch
    # Lightning takes a batch that is processed and not completed for one that was saved at its end.
    open_batch = running and not validating
    seen = {
        "total": _counts(total, completed=total - open_batch),
        "current": _counts(batch, completed=batch - open_batch),
        "is_last_batch": validating,
    }
    fit_loop["epoch_loop.batch_progress"] = seen
    fit_loop["epoch_loop.state_dict"] = {"_batches_that_stepped": position.steps - open_batch}
    taken = math.ceil(batch / position.accumulate)
    counts = {"total": position.steps, "current": taken}
    optimizer = {
        "step": {name: {"ready": n, "completed": n} for name, n in counts.items()},
        "zero_grad": {
            name: {"ready": n, "started": n, "completed": n} for name, n in counts.items()
        },
    }
    fit_loop["epoch_loop.automatic_optimization.optim_progress"] = {"optimizer": optimizer}
    fit_loop["epoch_loop.scheduler_progress"] = {
        name: {"ready": n, "completed": n} for name, n in counts.items()
    }
    # One batch of the validation that was begun and not done has it begin again.
    begun = int(validating)
    fit_loop["epoch_loop.val_loop.batch_progress"] = {
        **_both(ready=begun, started=begun, processed=0, completed=0),
        "is_last_batch": False,
    }


def _counts(count: int, completed: int) -> dict[str, int]:
    return {"ready": count, "started": count, "processed": count, "completed": completed}


def _both(**counts: int) -> dict[str, Any]:
    return {"total": dict(counts), "current": dict(counts)}
