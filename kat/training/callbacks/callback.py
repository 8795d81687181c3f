"""What a training run calls on its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kat.data import Batch

if TYPE_CHECKING:
    from kat.training.build import Run


class Callback:
    """Looks on, or acts, at named moments of a run; each method does nothing by default.

    ``run.state`` says which moment it is: its step, its epoch, its batch.
    """

    name: str | None = None
    """What its state is stored under in checkpoints; None has no state."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of this callback."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`, before :meth:`on_fit_start`."""

    def on_fit_start(self, run: Run) -> None:
        """Training, or its resumption, begins."""

    def on_epoch_start(self, run: Run) -> None:
        """An epoch begins, or is resumed: within it, or in its validation."""

    def on_batch_start(self, run: Run, index: int) -> None:
        """The batch of this index within the epoch is about to be trained on."""

    def on_before_step(self, run: Run) -> None:
        """The gradients of a step are there, unscaled and not yet clipped."""

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """A batch is trained on; ``stepped``: the optimizer has taken its step."""

    def on_validation_start(self, run: Run) -> None:
        """Validation begins."""

    def on_validation_batch_end(
        self, run: Run, index: int, batch: Batch, loss: Tensor | None
    ) -> None:
        """A batch is validated; a task may have no validation loss."""

    def on_validation_end(self, run: Run) -> None:
        """Validation is over; its metrics are not yet logged."""

    def on_epoch_end(self, run: Run) -> None:
        """The epoch has its row in ``run.state.history``."""

    def on_checkpoint(self, run: Run) -> None:
        """The state of the run is about to be written."""

    def on_fit_end(self, run: Run) -> None:
        """The last epoch, or a limit, is reached."""

    def on_exception(self, run: Run) -> None:
        """The run is stopped, by an error or a signal."""
