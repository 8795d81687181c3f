"""Checks of a run that need its model, its optimizer or its batches; others are in resolve."""

from __future__ import annotations

from kat.errors import InputError
from kat.models.checkpoints.model_record import unseen_pixels
from kat.text import warn
from kat.training.optim.optimizer import check_layout
from kat.training.record.run import Run
from kat.training.record.run_directory import Checkpoint
from kat.training.record.state import rounding_changes
from kat.training.settings.resolve import ResolvedRun
from kat.training.tasks.match import check_task


def check_run(run: Run, resolved: ResolvedRun) -> None:
    """Check that the model fits the data, and a run that is resumed its checkpoint.

    Raises:
        InputError: the model is for another task, or the checkpoint does not fit the settings.
    """
    check_task(run.model, resolved.train_data, (run.config.model.name, run.config.data.name))
    unseen = unseen_pixels(run.model, run.record.input_size)
    if unseen and run.is_first:
        warn(f"warning: {unseen}")
    if resolved.checkpoint is not None:
        _check_resumption(run, resolved.checkpoint)


def _check_resumption(run: Run, checkpoint: Checkpoint) -> None:
    saved = checkpoint.state
    change = saved.division_change(run.state.division, run.batches)
    if change:
        raise InputError(
            f"{change}, or start a new run from these weights: --init-from {checkpoint.path}"
        )
    check_layout(run.model, run.optimizer, run.config.optim.name, checkpoint.content["optimizer"])
    changed = rounding_changes(saved.arithmetic, run.state.arithmetic)
    if changed and run.is_first:
        warn(
            f"warning: resumed with {changed}: the results differ from an uninterrupted run's in"
            " the last bits"
        )
