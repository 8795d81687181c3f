"""A run that is no longer finite: noticed before the update, stopped with a checkpoint.

Every step, before the optimizer uses it, loss and gradient are checked to be finite: one number is
read from the device. Every epoch, before it is validated and kept, all that a checkpoint holds is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from kat.data import Batch
from kat.documents import read_json, write_json
from kat.errors import TrainingDiverged
from kat.training.cluster.collectives import any_of, broadcast, gather
from kat.training.cluster.parallel import local
from kat.training.nonfinite import first_nonfinite
from kat.training.record.checkpoint import save_checkpoint
from kat.training.record.run import Callback, Run
from kat.training.record.run_directory import DIVERGENCE, LAST, LAST_GOOD

MOST_SKIPPED = 50
"""Steps in a row that a loss scaler may skip for a gradient that is not finite. Each halves the
scale: fifty make it 10^15 times smaller, which cures every gradient that only the scale makes
overflow. Without a limit training would never end, and change nothing."""
_ADVICE = (
    "Try a lower optim.lr, a longer optim.warmup_epochs, or optim.clip_grad=1; with a reduced"
    " precision also precision=32-true"
)


class DivergenceGuard(Callback):
    """Stops a run whose numbers are not finite, before they are used or kept.

    Loss and gradient are checked at every step, weights, buffers, their EMA and the optimizer's
    state before every validation and every checkpoint, and the loss of every validation. So
    best.ckpt and last.ckpt are finite. A run that is stopped leaves divergence.json, and
    last_good.ckpt, the state before the bad step, if that is finite; else the message names
    last.ckpt. A run that ends well has neither.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self.scaler_before: dict[str, Any] = {}
        self.unbounded: set[str] = set()
        """Buffers that were not finite at the start, such as limits, and need not be."""

    def on_fit_start(self, run: Run) -> None:
        """Remove the record of an earlier divergence; note buffers that are infinite by intent."""
        if run.is_first:
            (run.out / DIVERGENCE).unlink(missing_ok=True)
        buffers = run.model.named_buffers()
        self.unbounded = {name for name, buffer in buffers if not buffer.isfinite().all()}

    def on_fit_end(self, run: Run) -> None:
        """Remove last_good.ckpt of an earlier divergence, which best and last supersede."""
        if run.is_first:
            (run.out / LAST_GOOD).unlink(missing_ok=True)

    def on_before_step(self, run: Run) -> None:
        """Check loss and gradient; a loss scaler may skip :data:`MOST_SKIPPED` steps in a row."""
        assert run.loss is not None
        named = reversed(list(run.model.named_parameters()))  # in the order of the backward pass
        gradients = {name: local(p.grad) for name, p in named if p.grad is not None}
        # Where the norm is finite, so are the squares, of which optimizers make their moments. The
        # loss counts as 0 or NaN: its square may overflow.
        norm = nn.utils.get_total_norm([0 * run.loss, *gradients.values()])
        if not any_of(not norm.isfinite(), run.device):
            self.skipped = 0
            return
        self._check_loss(run)
        if self._skips(run):
            return
        text = "the norm of the gradient is not finite"
        if self.skipped:
            text += f", in {self.skipped} steps in a row that the loss scaler skipped, last"
        norms = {
            f"the gradient of {name}": torch.linalg.vector_norm(gradient)
            for name, gradient in gradients.items()
        }
        self._stop(run, text, norms)

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Check the loss of a batch whose gradient waits for the gradients of others."""
        if not stepped:
            self._check_loss(run)

    def on_validation_start(self, run: Run) -> None:
        """Check the state before it is validated."""
        self.on_checkpoint(run)

    def on_validation_end(self, run: Run, values: Mapping[str, float]) -> None:
        """Check the validation loss, before it is logged and the epoch kept."""
        if not math.isfinite(values.get("val_loss", 0.0)):
            self._stop(run, "the validation loss is not finite")

    def on_checkpoint(self, run: Run) -> None:
        """Stop the run unless everything that a checkpoint keeps is finite."""
        if not _all_finite(run, self._state(run).values()):
            self._stop(run, "the state of training is not finite")

    def _check_loss(self, run: Run) -> None:
        """Stop the run if the loss of the last batch is not finite in any rank."""
        assert run.loss is not None
        if any_of(not run.loss.isfinite(), run.device):
            self._stop(run, "the loss is not finite")

    def _skips(self, run: Run) -> bool:
        """Return True if the loss scaler may skip the step: a smaller scale may suffice."""
        scaler = run.precision.scaler
        if not scaler.is_enabled():
            return False
        if self.skipped == 0:
            self.scaler_before = scaler.state_dict()
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            scaler.load_state_dict(self.scaler_before)
        return self.skipped < MOST_SKIPPED

    def _stop(self, run: Run, text: str, norms: Mapping[str, Tensor] | None = None) -> NoReturn:
        """Keep the state, and name the first part of it, or of the gradients, that is not finite.

        Args:
            run: the run.
            text: the start of the message.
            norms: the norms of the gradients by name.
        """
        first = first_nonfinite({**self._state(run), **(norms or {})})
        found = [name for name in gather(first) if name]
        where = f", first in {found[0]}" if found else ""
        epoch, step = run.state.epoch + 1, run.state.step
        kept = self._keep(run)
        message = f"{text} at step {step} (epoch {epoch}){where}. {kept} {_ADVICE}."
        if run.is_first:
            write_json(run.out / DIVERGENCE, {"epoch": epoch, "step": step, "message": message})
        raise TrainingDiverged(message)

    def _keep(self, run: Run) -> str:
        """Keep the state, if it is finite, and say where the newest finite one is."""
        if _all_finite(run, self._state(run).values()):
            save_checkpoint(run, run.out / LAST_GOOD)
            return f"The state before it is in {run.out / LAST_GOOD}."
        if not broadcast((run.out / LAST).is_file()):
            return "No finite state of this run is known."
        return f"The newest finite state is in {run.out / LAST}."

    def _state(self, run: Run) -> dict[str, Tensor]:
        """Return the numbers that a checkpoint keeps, by name; this rank's share of sharded ones.

        They are the weights, the buffers, their EMA and the optimizer's moments.
        """
        model = run.model
        own: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        state = {name: tensor for name, tensor in own.items() if name not in self.unbounded}
        names = {id(tensor): name for name, tensor in state.items()}
        if run.ema is not None:
            state |= {f"the EMA of {name}": run.ema.values[name] for name in list(state)}
        for parameter, entries in run.optimizer.state.items():
            name = names.get(id(parameter), "a parameter")
            state |= {f"the optimizer's {key} of {name}": value for key, value in entries.items()}
        shares = {name: local(t.detach()) for name, t in state.items() if isinstance(t, Tensor)}
        return {name: t for name, t in shares.items() if t.is_floating_point() and t.numel() > 0}


def read_divergence(out: str | Path) -> str | None:
    """Return the divergence that stopped a run, in one sentence, or None.

    Examples:
        >>> from pathlib import Path
        >>> from kat.training import read_divergence
        >>> read_divergence(Path("runs/digits")) is None
        True
    """
    path = Path(out) / DIVERGENCE
    return str(read_json(path)["message"]) if path.is_file() else None


def _all_finite(run: Run, tensors: Iterable[Tensor]) -> bool:
    """Return True if all numbers in all ranks are finite, by the largest of them."""
    norm = nn.utils.get_total_norm(list(tensors), norm_type=math.inf)
    return not any_of(not norm.isfinite(), run.device)
