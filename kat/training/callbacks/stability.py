"""Record the GR-KAN layers while they train: stability.csv."""

from __future__ import annotations

from typing import Any

from kat.nn.stability import StabilityMonitor
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import STABILITY


class StabilityRecorder(Callback):
    """Records the steps that are due, and the last one, in stability.csv.

    The first process records its own share of the batch, and the gradients of all.
    """

    name = "stability"

    def __init__(self, monitor: StabilityMonitor) -> None:
        self.monitor = monitor
        self._started = False

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficients that drift is measured from."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.monitor.load_state_dict(state)

    def on_fit_start(self, run: Run) -> None:
        """Extend the record of a resumed run."""
        if run.state.step > 0:
            self.monitor.resume(run.out / STABILITY, run.state.step)
        self._started = True

    def on_batch_start(self, run: Run, index: int) -> None:
        """Watch a step that is due."""
        step = run.state.step
        due = self.monitor.due(step) or step + 1 == run.schedule.steps
        if due and run.is_first and not self.monitor.watching:
            self.monitor.watch()

    def on_before_step(self, run: Run) -> None:
        """Record the step, now that its gradients are there."""
        if self.monitor.watching:
            self.monitor.record(run.state.step, run.precision.loss_scale)

    def on_checkpoint(self, run: Run) -> None:
        """Write the record so far, if any: a run resumed from the checkpoint extends it."""
        if run.is_first and self.monitor.rows:
            self.monitor.save(run.out / STABILITY)

    def on_exception(self, run: Run) -> None:
        """Write the record of a run that is stopped, unless it never started."""
        self.monitor.stop()
        if self._started:
            self.on_checkpoint(run)
