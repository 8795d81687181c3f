"""A run that is no longer finite: noticed before the update, explained, stopped with a checkpoint.

Every step, before the optimizer uses it, loss and gradient are checked to be finite: one number is
read from the device. Every epoch, before it is validated and kept, all that a checkpoint holds is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from kat.data import STEP, Batch, derived_seed, seed_all
from kat.documents import read_json, write_json
from kat.errors import TrainingDiverged
from kat.training.checkpoint import save_checkpoint
from kat.training.distributed import any_of, broadcast, gather, local
from kat.training.nonfinite import ADVICE, UNKNOWN, Finding, find_in_state, find_origin
from kat.training.run import Attempt, Callback, Run
from kat.training.run_directory import DIVERGENCE, LAST, LAST_GOOD

MOST_SKIPPED = 50
"""Steps in a row that a loss scaler may skip for a gradient that is not finite. Each halves the
scale: fifty make it 10^15 times smaller, which cures every gradient that only the scale makes
overflow. Without a limit training would never end, and change nothing."""


class _Symptom(NamedTuple):
    """An observation of one rank: ``text`` in ``batch``, for the reason of ``finding``."""

    text: str
    batch: str
    finding: Finding


class DivergenceGuard(Callback):
    """Stops a run whose numbers are not finite, before they are used or kept.

    Loss and gradient are checked at every step, weights, buffers, their EMA and the optimizer's
    state before every validation and every checkpoint, the loss of every batch of a validation. So
    best.ckpt and last.ckpt are finite. A run that is stopped leaves divergence.json, with the
    origin of the values, and last_good.ckpt, the state before the bad step, if that is finite; else
    the message names last.ckpt. A run that ends well has neither.
    """

    def __init__(self) -> None:
        self.index = 0
        self.skipped = 0
        self.scaler_before: dict[str, Any] = {}
        self.unbounded: set[str] = set()
        """Buffers that were not finite at the start, such as limits, and need not be."""
        self.symptom: _Symptom | None = None

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

    def on_batch_start(self, run: Run, index: int) -> None:
        """Record the batch."""
        self.index = index

    def on_before_step(self, run: Run) -> None:
        """Check loss and gradient; a loss scaler may skip :data:`MOST_SKIPPED` steps in a row."""
        attempt = _attempt(run)
        gradients = [local(p.grad) for p in run.model.parameters() if p.grad is not None]
        # Where the norm is finite, so are the squares, of which optimizers make their moments.
        norm = nn.utils.get_total_norm([0 * attempt.loss, *gradients])  # the loss may be any number
        if not any_of(not norm.isfinite(), run.device):
            self.skipped = 0
        elif not self._skips(run, attempt.loss):
            skips = f", in {self.skipped} steps in a row that the loss scaler skipped, last"
            text = f"the norm of the gradient is {norm}{skips if self.skipped else ''}"
            self._stop_step(run, attempt, text if attempt.loss.isfinite() else "")

    def on_batch_end(self, run: Run, index: int, batch: Batch, stepped: bool) -> None:
        """Check the loss of a batch whose gradient waits for the gradients of others."""
        if not stepped and any_of(not _attempt(run).loss.isfinite(), run.device):
            self._stop_step(run, _attempt(run))

    def on_validation_start(self, run: Run) -> None:
        """Check the state before it is validated."""
        self.symptom = None
        self.on_checkpoint(run)

    def on_validation_batch_end(
        self, run: Run, index: int, batch: Batch, loss: Tensor | None
    ) -> None:
        """Look for the origin of the first loss that is not finite.

        The other ranks, which may have fewer batches, hear of it at the end.
        """
        if loss is None or self.symptom is not None or bool(loss.isfinite()):
            return

        def forward() -> object:
            # some tasks predict image by image
            return list(run.task.predict(run.model, batch.images))

        place = f"validation batch {index}"
        with run.kept_weights(), run.precision.autocast():
            finding = find_origin(run.model, batch.images, forward, place)
        self.symptom = _Symptom(f"the validation loss is {loss.item()}", place, finding)

    def on_validation_end(self, run: Run) -> None:
        """Stop for such a loss, before it is logged and the epoch kept."""
        if any_of(self.symptom is not None, run.device):
            self._stop(run, self.symptom, self._keep(run))

    def on_checkpoint(self, run: Run) -> None:
        """Stop the run unless everything that a checkpoint keeps is finite."""
        state = self._state(run)
        if not _all_finite(run, state.values()):
            finding = find_in_state(state, "state") or UNKNOWN
            text = "the state of training is not finite"
            self._stop(run, _Symptom(text, f"batch {self.index}", finding), self._keep(run))

    def _skips(self, run: Run, loss: Tensor) -> bool:
        """Return True if the loss scaler may skip the step: a smaller scale may suffice."""
        scaler = run.precision.scaler
        if not scaler.is_enabled() or any_of(not loss.isfinite(), run.device):
            return False
        if self.skipped == 0:
            self.scaler_before = scaler.state_dict()
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            scaler.load_state_dict(self.scaler_before)
        return self.skipped < MOST_SKIPPED

    def _stop_step(self, run: Run, attempt: Attempt, text: str = "") -> None:
        kept, batch = self._keep(run), f"batch {self.index}"
        place = (run.config.seed, run.state.epoch, self.index, run.world.rank)
        seed_all(derived_seed(STEP, *place))  # the random numbers of the step again
        with run.precision.autocast():
            finding = find_origin(run.model, attempt.images, attempt.forward, batch)
        text = text or f"the loss is {attempt.loss.item()}"
        self._stop(run, _Symptom(text, batch, finding), kept)

    def _stop(self, run: Run, symptom: _Symptom | None, kept: str) -> None:
        text, batch, finding = _agreed(symptom)
        state = run.state
        message = (
            f"{text} at step {state.step} (epoch {state.epoch + 1}, {batch}):"
            f" {finding.detail}. {kept} {ADVICE[finding.cause]}."
        )
        if run.is_first:
            record = {"step": state.step, **asdict(finding), "message": message}
            write_json(run.out / DIVERGENCE, record)
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


def _attempt(run: Run) -> Attempt:
    """Return the last forward pass of the run."""
    assert run.attempt is not None
    return run.attempt


def _all_finite(run: Run, tensors: Iterable[Tensor]) -> bool:
    """Return True if all numbers in all ranks are finite, by the largest of them."""
    norm = nn.utils.get_total_norm(list(tensors), norm_type=math.inf)
    return not any_of(not norm.isfinite(), run.device)


def _agreed(symptom: _Symptom | None) -> _Symptom:
    """Return the symptom of all ranks that is nearest to the origin, in the order of the advice."""
    causes = list(ADVICE)
    seen = [(rank, found) for rank, found in enumerate(gather(symptom)) if found is not None]
    rank, nearest = min(seen, key=lambda pair: causes.index(pair[1].finding.cause))
    if len(seen) == 1:
        return nearest
    detail = f"{nearest.finding.detail} (in rank {rank})"
    return nearest._replace(finding=replace(nearest.finding, detail=detail))
