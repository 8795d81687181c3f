"""A run that is no longer finite: noticed before the update, explained, stopped with a checkpoint.

Every step, before the optimizer uses it, loss and gradient are checked to be finite: one number is
read from the device. Every epoch, before it is validated and kept, all that a checkpoint holds is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from kat.data import Batch
from kat.documents import read_json
from kat.errors import InputError, TrainingDiverged
from kat.files import write_text
from kat.training.callbacks.callback import Callback
from kat.training.callbacks.nonfinite import (
    ADVICE,
    Attempt,
    Finding,
    diagnose,
    diagnose_state,
    random_state,
)
from kat.training.checkpoint import save_checkpoint
from kat.training.distributed import any_of, broadcast, gather, local
from kat.training.run_directory import DIVERGENCE, LAST, LAST_GOOD

if TYPE_CHECKING:
    from kat.training.build import Run

MOST_SKIPPED = 50
"""Steps in a row that a loss scaler may skip for a gradient that is not finite. Each halves the
scale: fifty make it 10^15 times smaller, which cures every gradient that only the scale makes
overflow. Without a limit training would never end, and change nothing."""
_NONE_KNOWN = "No finite state of this run is known."


class _Trouble(NamedTuple):
    """What one rank saw: ``symptom`` in ``batch``, for the reason that ``finding`` names."""

    symptom: str
    batch: str
    finding: Finding


class DivergenceGuard(Callback):
    """Stops a run whose numbers are not finite, before they are used or kept.

    Loss and gradient are checked at every step, weights, buffers, their EMA and the optimizer's
    state before every validation and every checkpoint, the loss of every batch of a validation. So
    best.ckpt and last.ckpt are finite. A run that is stopped leaves divergence.json, which holds
    what was found, and last_good.ckpt, the state before the bad step, if that is finite; else it
    names last.ckpt. A run that ends well has neither.
    """

    def __init__(self) -> None:
        self.batch = "batch 0"
        self.skipped = 0
        self.scaler_before: dict[str, Any] = {}
        self.unbounded: set[str] = set()
        self.trouble: _Trouble | None = None

    def on_fit_start(self, run: Run) -> None:
        """Checks that the run starts finite; removes the record of an earlier divergence."""
        if run.is_first:
            (run.out / DIVERGENCE).unlink(missing_ok=True)
        buffers = run.model.named_buffers()
        self.unbounded = {name for name, buffer in buffers if not buffer.isfinite().all()}
        self.check_state(run, kept=_NONE_KNOWN)

    def on_fit_end(self, run: Run) -> None:
        """Removes last_good.ckpt of an earlier divergence, which best and last supersede."""
        if run.is_first:
            (run.out / LAST_GOOD).unlink(missing_ok=True)

    def on_batch_start(self, run: Run, index: int) -> None:
        """Records the name of the batch."""
        self.batch = f"batch {index}"

    def on_before_step(self, run: Run) -> None:
        """Checks loss and gradient; a loss scaler may skip :data:`MOST_SKIPPED` steps in a row."""
        attempt = _attempt(run)
        if _norm_is_finite(run, attempt.loss, _gradients(run.model)):
            self.skipped = 0
        elif not self._skips(run, attempt.loss):
            self._stop_step(run, attempt)

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Checks the loss of a batch whose gradient waits for those of others."""
        if not stepped and not _norm_is_finite(run, _attempt(run).loss, []):
            self._stop_step(run, _attempt(run))

    def on_validation_start(self, run: Run) -> None:
        """Checks the state before it is validated and saved."""
        self.trouble = None
        self.check_state(run)

    def on_validation_batch_end(
        self, run: Run, index: int, batch: Batch, loss: Tensor | None
    ) -> None:
        """Looks for the reason of the first loss that is not finite.

        The other ranks, which may have fewer batches, hear of it at the end.
        """
        if loss is None or self.trouble is not None or bool(loss.isfinite()):
            return
        images = run.prepared(batch).images

        def forward() -> object:
            return list(run.task.predict(run.model, images))  # some tasks predict image by image

        attempt = Attempt(images, loss, random_state(loss.device), forward)
        place = f"validation batch {index}"
        with run.kept_weights():
            finding = diagnose(run.model, attempt, place, run.precision.autocast())
        self.trouble = _Trouble(f"the validation loss is {loss.item()}", place, finding)

    def on_validation_end(self, run: Run) -> None:
        """Stops for such a loss, before it is logged and the epoch kept."""
        if any_of(self.trouble is not None, run.device):
            self._stop(run, self.trouble, self._keep(run))

    def check_state(self, run: Run, kept: str | None = None) -> None:
        """Stops the run where not all that a checkpoint keeps is finite.

        Args:
            kept: where the newest finite state is, if that is known.
        """
        state = _state(run, self.unbounded)
        if not _all_finite(run, state.values()):
            finding = diagnose_state(run.model, state)
            trouble = _Trouble("the state of training is not finite", self.batch, finding)
            self._stop(run, trouble, kept or self._keep(run))

    def _skips(self, run: Run, loss: Tensor) -> bool:
        """Whether the loss scaler may skip the step: a smaller scale may suffice."""
        scaler = run.precision.scaler
        if scaler is None or not _norm_is_finite(run, loss, []):
            return False
        if self.skipped == 0:
            self.scaler_before = scaler.state_dict()
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            scaler.load_state_dict(self.scaler_before)
        return self.skipped < MOST_SKIPPED

    def _stop_step(self, run: Run, attempt: Attempt) -> None:
        kept = self._keep(run)
        finding = diagnose(run.model, attempt, self.batch, run.precision.autocast())
        symptom = f"the loss is {attempt.loss.item()}"
        if attempt.loss.isfinite():
            norm = nn.utils.get_total_norm(_gradients(run.model)).item()
            skips = f", in {self.skipped} steps in a row that the loss scaler skipped, last"
            symptom = f"the norm of the gradient is {norm}{skips if self.skipped else ''}"
        self._stop(run, _Trouble(symptom, self.batch, finding), kept)

    def _stop(self, run: Run, trouble: _Trouble | None, kept: str) -> None:
        symptom, batch, finding = _agreed(trouble)
        state = run.state
        message = (
            f"{symptom} at step {state.step} (epoch {state.epoch + 1}, {batch}):"
            f" {finding.detail}. {kept} {ADVICE[finding.cause]}."
        )
        if run.is_first:
            record = {"step": state.step, **asdict(finding), "message": message}
            write_text(run.out / DIVERGENCE, json.dumps(record, indent=2) + "\n")
        raise TrainingDiverged(message)

    def _keep(self, run: Run) -> str:
        """Keeps the state, if it is finite, and says where the newest finite one is."""
        if _all_finite(run, _state(run, self.unbounded).values()):
            save_checkpoint(run, run.out / LAST_GOOD)
            return f"The state before it is in {run.out / LAST_GOOD}."
        if not broadcast((run.out / LAST).is_file()):
            return _NONE_KNOWN
        return f"The newest finite state is in {run.out / LAST}."


def read_divergence(out: str | Path) -> str | None:
    """The divergence that stopped a run, in one sentence, or None.

    Raises:
        InputError: the record of it is damaged.

    Examples:
        >>> from pathlib import Path
        >>> from kat.training import read_divergence
        >>> read_divergence(Path("runs/digits")) is None
        True
    """
    out = Path(out)
    path = out / DIVERGENCE
    if not path.is_file():
        return None
    content = read_json(path)
    message = content.get("message") if isinstance(content, dict) else None
    if not isinstance(message, str):
        raise InputError(f"{path} is damaged: it has no message")
    return message


def _attempt(run: Run) -> Attempt:
    """The last forward pass of the run."""
    assert run.attempt is not None
    return run.attempt


def _gradients(model: nn.Module) -> list[Tensor]:
    return [local(p.grad) for p in model.parameters() if p.grad is not None]


def _norm_is_finite(run: Run, loss: Tensor, gradients: list[Tensor]) -> bool:
    """Whether loss and 2-norm of the gradient are finite in all ranks.

    So then are the gradient's squares, and with them the moments that optimizers make of it.
    """
    norm = nn.utils.get_total_norm([0 * loss, *gradients])  # the loss may be as large as it likes
    return not any_of(not norm.isfinite(), run.device)


def _all_finite(run: Run, tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers in all ranks are finite, by the largest of them."""
    norm = nn.utils.get_total_norm(list(tensors), norm_type=math.inf)
    return not any_of(not norm.isfinite(), run.device)


def _state(run: Run, unbounded: set[str]) -> dict[str, Tensor]:
    """All numbers that a checkpoint keeps, by name: weights, buffers, their EMA, moments.

    Of sharded ones this rank's share.

    Args:
        unbounded: buffers that were not finite at the start, such as limits, and need not be.
    """
    model = run.model
    own: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor for name, tensor in own.items() if name not in unbounded}
    names = {id(tensor): name for name, tensor in state.items()}
    if run.ema is not None:
        state |= {f"the EMA of {name}": run.ema.values[name] for name in list(state)}
    for parameter, entries in run.optimizer.state.items():
        name = names.get(id(parameter), "a parameter")
        state |= {f"the optimizer's {key} of {name}": value for key, value in entries.items()}
    shares = {name: local(t.detach()) for name, t in state.items() if isinstance(t, Tensor)}
    return {name: t for name, t in shares.items() if t.is_floating_point() and t.numel() > 0}


def _agreed(trouble: _Trouble | None) -> _Trouble:
    """What all ranks say: the trouble nearest to the source, in the order of the advice.

    Their gradients are shared, their images are not: one knows why, the others see that.
    """
    troubles = gather(trouble)
    causes = list(ADVICE)
    known = [(causes.index(seen.finding.cause), i) for i, seen in enumerate(troubles) if seen]
    place = min(known)[1]
    nearest = troubles[place]
    assert nearest is not None
    if len(troubles) == 1:
        return nearest
    detail = f"{nearest.finding.detail} (in rank {place})"
    return nearest._replace(finding=replace(nearest.finding, detail=detail))
