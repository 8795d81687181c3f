"""Has a stability monitor watch the GR-KAN layers while they train: stability.csv."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from kat.nn.monitoring.stability import Row, StabilityMonitor
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.loggers import TensorBoardLogger
from kat.training.run_directory import STABILITY

if TYPE_CHECKING:
    from kat.training.build import Run


class StabilityRecorder(Callback):
    """Has a monitor watch the steps that are due, and the last one; stability.csv, TensorBoard.

    The first process records: its own share of the batch, and the gradients of all.

    Args:
        model: whose layers are watched.
        every_n_steps: steps between two records.

    Raises:
        InputError: the model has no GR-KAN layer.
    """

    name = "stability"

    def __init__(self, model: nn.Module, every_n_steps: int) -> None:
        self.monitor = StabilityMonitor(every_n_steps)
        self.monitor.attach(model)
        self._started = False

    def state_dict(self) -> dict[str, Any]:
        """The coefficients that drift is measured from."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them."""
        self.monitor.load_state_dict(state)

    def on_fit_start(self, run: Run) -> None:
        """A resumed run extends its record."""
        if run.state.step > 0:
            self.monitor.resume(run.out / STABILITY, run.state.step)
        self._started = True

    def on_batch_start(self, run: Run, index: int) -> None:
        """Has the monitor watch a step that is due."""
        step = run.state.step
        due = self.monitor.due(step) or step + 1 == run.total_steps
        if due and run.is_first and not self.monitor.watching:
            self.monitor.watch()

    def on_before_step(self, run: Run) -> None:
        """Records the step, now that its gradients are there."""
        if not self.monitor.watching:
            return
        rows = self.monitor.record(run.state.step, run.precision.loss_scale)
        for logger in run.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log(scalars(rows), run.state.step)

    def on_checkpoint(self, run: Run) -> None:
        """Writes the record so far, which a run resumed from the checkpoint extends."""
        self._save(run)

    def on_exception(self, run: Run) -> None:
        """Writes the record of a run that is stopped; one that never started leaves it alone."""
        self.monitor.stop()
        if self._started:
            self._save(run)

    def _save(self, run: Run) -> None:
        if run.is_first:
            self.monitor.save(run.out / STABILITY)


def scalars(rows: Iterable[Row]) -> dict[str, float]:
    """The quantities of a record by their names in TensorBoard."""
    return {
        f"stability/{row['layer']}/{name}": value
        for row in rows
        for name, value in row.items()
        if name not in ("step", "layer")
    }
