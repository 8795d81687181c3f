"""A run that is no longer finite: noticed before the update, explained, stopped with a checkpoint.

Every step, before the optimiser uses it, loss and gradient are checked to be finite: one number is
read from the device. Every epoch, before it is validated and kept, all that a checkpoint holds is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from kat.errors import TrainingDiverged
from kat.files import write_text
from kat.training.distributed import any_of, gather
from kat.training.ema import local
from kat.training.nonfinite import (
    ADVICE,
    Attempt,
    Finding,
    diagnose,
    diagnose_state,
    random_state,
)
from kat.training.run_directory import DIVERGENCE, LAST, LAST_GOOD
from kat.training.saving import save_checkpoint

MOST_SKIPPED = 50
"""Steps in a row that a loss scaler may skip for a gradient that is not finite. Each halves the
scale: fifty make it 10^15 times smaller, which cures every gradient that only the scale makes
overflow. Without a limit training goes on for ever, and changes nothing."""
_NONE_KNOWN = "No finite state of this run is known."


class _Trouble(NamedTuple):
    """What one process saw: ``symptom`` in ``batch``, for the reason that ``finding`` names."""

    symptom: str
    batch: str
    finding: Finding


class DivergenceGuard(Callback):
    """Stops a run whose numbers are not finite, before they are used or kept.

    Loss and gradient are checked at every step, weights, buffers, their average and the optimiser's
    state before every validation and every checkpoint, the loss of every batch of a validation. So
    best.ckpt and last.ckpt are finite. A run that is stopped leaves divergence.json, which holds
    what was found, and last_good.ckpt, the state before the bad step, if that is finite; else it
    names last.ckpt. A run that ends well has neither.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.batch = "batch 0"
        self.skipped = 0
        self.scaler_before: dict[str, Any] = {}
        self.unbounded: set[str] = set()
        self.trouble: _Trouble | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuses a start that is not finite. A resumed run has its divergence behind it."""
        if trainer.is_global_zero:
            (self.out / DIVERGENCE).unlink(missing_ok=True)
        buffers = pl_module.model.named_buffers()
        self.unbounded = {name for name, buffer in buffers if not buffer.isfinite().all()}
        self.check_state(trainer, pl_module, kept=_NONE_KNOWN)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes what an earlier divergence has left; best and last have made it needless."""
        if trainer.is_global_zero:
            (self.out / LAST_GOOD).unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes which batch it is."""
        self.batch = f"batch {batch_idx}"

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Checks loss and gradient; a loss scaler may skip :data:`MOST_SKIPPED` steps in a row."""
        if _norm_is_finite(trainer, pl_module.attempt.loss, _gradients(pl_module)):
            self.skipped = 0
        elif not self._skips(trainer, pl_module.attempt.loss):
            self._stop_step(trainer, pl_module)
        pl_module.attempt = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the loss of a batch whose gradient waits for those of others."""
        attempt = pl_module.attempt
        if attempt is not None and not _norm_is_finite(trainer, attempt.loss, []):
            self._stop_step(trainer, pl_module)
        pl_module.attempt = None

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks all that is to be validated and kept."""
        self.trouble = None
        self.check_state(trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Looks for the reason of the first loss that is not finite.

        The other processes, which may have fewer batches, hear of it at the end.
        """
        if outputs is None or self.trouble is not None or bool(outputs.isfinite()):
            return
        images = batch.images
        attempt = Attempt(
            images,
            outputs,
            random_state(outputs.device),
            lambda: list(pl_module(images)),  # some tasks answer for one image after the other
        )
        place, context = f"validation batch {batch_idx}", trainer.precision_plugin.forward_context()
        with pl_module.kept_weights():
            finding = diagnose(pl_module.model, attempt, place, context)
        self.trouble = _Trouble(f"the validation loss is {outputs.item()}", place, finding)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Stops for such a loss, before it is logged and the epoch kept."""
        if any_of(self.trouble is not None, trainer.strategy.root_device):
            self._stop(trainer, self.trouble, self._keep(trainer, pl_module))

    def _skips(self, trainer: Trainer, loss: Tensor) -> bool:
        """Whether a scaler is to skip the step, since smaller a scale may be all that it takes."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None or not _norm_is_finite(trainer, loss, []):
            return False
        if self.skipped == 0:
            self.scaler_before = scaler.state_dict()
        self.skipped += 1
        if self.skipped == MOST_SKIPPED:
            scaler.load_state_dict(self.scaler_before)
        return self.skipped < MOST_SKIPPED

    def check_state(self, trainer: Trainer, pl_module: Any, kept: str | None = None) -> None:
        """Stops the run where not all that a checkpoint keeps is finite.

        Args:
            kept: where the newest finite state is, if that is known.
        """
        state = _state(trainer, pl_module, self.unbounded)
        if not _all_finite(trainer, state.values()):
            finding = diagnose_state(pl_module.model, state)
            trouble = _Trouble("the state of training is not finite", self.batch, finding)
            self._stop(trainer, trouble, kept or self._keep(trainer, pl_module))

    def _stop_step(self, trainer: Trainer, pl_module: Any) -> None:
        kept = self._keep(trainer, pl_module)
        model, attempt = pl_module.model, pl_module.attempt
        context = trainer.precision_plugin.forward_context()
        finding = diagnose(model, attempt, self.batch, context)
        symptom = f"the loss is {attempt.loss.item()}"
        if attempt.loss.isfinite():
            norm = nn.utils.get_total_norm(_gradients(pl_module)).item()
            skips = f", in {self.skipped} steps in a row that the loss scaler skipped, last"
            symptom = f"the norm of the gradient is {norm}{skips if self.skipped else ''}"
        self._stop(trainer, _Trouble(symptom, self.batch, finding), kept)

    def _stop(self, trainer: Trainer, trouble: _Trouble | None, kept: str) -> None:
        symptom, batch, finding = _agreed(trouble)
        message = (
            f"{symptom} at step {trainer.global_step} (epoch {trainer.current_epoch + 1}, {batch}):"
            f" {finding.detail}. {kept} {ADVICE[finding.cause]}."
        )
        if trainer.is_global_zero:
            record = {"step": trainer.global_step, **asdict(finding), "message": message}
            write_text(self.out / DIVERGENCE, json.dumps(record, indent=2) + "\n")
        raise TrainingDiverged(message)

    def _keep(self, trainer: Trainer, pl_module: Any) -> str:
        """Keeps the state, if it is finite, and says where the newest finite one is."""
        if _all_finite(trainer, _state(trainer, pl_module, self.unbounded).values()):
            save_checkpoint(trainer, self.out / LAST_GOOD)
            return f"The state before it is in {self.out / LAST_GOOD}."
        if not trainer.strategy.broadcast((self.out / LAST).is_file()):
            return _NONE_KNOWN
        return f"The newest finite state is in {self.out / LAST}."


def read_divergence(out: Path) -> str | None:
    """What stopped a run, in one sentence, or None where nothing did."""
    path = out / DIVERGENCE
    return json.loads(path.read_text(encoding="utf-8"))["message"] if path.is_file() else None


def _gradients(module: nn.Module) -> list[Tensor]:
    return [local(p.grad) for p in module.parameters() if p.grad is not None]


def _norm_is_finite(trainer: Trainer, loss: Tensor, gradients: list[Tensor]) -> bool:
    """Whether loss and 2-norm of the gradient are finite in all processes.

    So then are the gradient's squares, and with them the moments that optimisers make of it.
    """
    norm = nn.utils.get_total_norm([0 * loss, *gradients])  # the loss may be as large as it likes
    return not any_of(not norm.isfinite(), trainer.strategy.root_device)


def _all_finite(trainer: Trainer, tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers in all processes are finite, by the largest of them."""
    norm = nn.utils.get_total_norm(list(tensors), norm_type=math.inf)
    return not any_of(not norm.isfinite(), trainer.strategy.root_device)


def _state(trainer: Trainer, pl_module: Any, unbounded: set[str]) -> dict[str, Tensor]:
    """All numbers that a checkpoint keeps, by name: weights, buffers, averages, moments.

    Of sharded ones this process's share.

    Args:
        unbounded: buffers that were not finite at the start, such as limits, and are not meant to.
    """
    model = pl_module.model
    own: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {name: tensor for name, tensor in own.items() if name not in unbounded}
    names = {id(tensor): name for name, tensor in state.items()}
    if pl_module.average is not None:
        averages = pl_module.average.values
        state |= {f"the average of {name}": averages[name] for name in list(state)}
    for optimizer in trainer.optimizers:
        for parameter, entries in optimizer.state.items():
            name = names.get(id(parameter), "a parameter")
            state |= {f"the optimiser's {key} of {name}": value for key, value in entries.items()}
    shares = {name: local(t.detach()) for name, t in state.items() if isinstance(t, Tensor)}
    return {name: t for name, t in shares.items() if t.is_floating_point() and t.numel() > 0}


def _agreed(trouble: _Trouble | None) -> _Trouble:
    """What all processes say: the trouble nearest to the source, in the order of the advice.

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
    detail = f"{nearest.finding.detail} (in process {place})"
    return nearest._replace(finding=replace(nearest.finding, detail=detail))
