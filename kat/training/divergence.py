"""A run that is no longer finite: noticed before the update, explained, stopped with a checkpoint.

Every step, before the optimiser uses it, loss and gradient are checked to be finite: one number is
read from the device. Only where they are not, the step's forward pass is run again and the first
layer is looked for whose output or parameters are not finite although its input is.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from kat.errors import TrainingDiverged
from kat.files import replacing, write_text
from kat.nn import GroupRational
from kat.training.folder import DIVERGENCE, LAST, LAST_GOOD

_LOWER = "a lower optim.lr, a longer optim.warmup_epochs, or optim.clip_grad=1"
_ADVICE = {
    "input": "Look at the images of this batch, and at augment and data.mean and data.std",
    "weight": f"Was the model started from such weights? If not, try {_LOWER}",
    "coefficient": f"Was the model started from such coefficients? If not, try {_LOWER}",
    "overflow": f"Try {_LOWER}; with a reduced precision also precision=32-true",
    "gradient": f"Try {_LOWER}; with a reduced precision also precision=32-true",
    "unknown": f"It did not come again when the step was run again. Try {_LOWER}",
}


@dataclass(frozen=True)
class Finding:
    """Where the first value came from that is not finite.

    Args:
        layer: name of the module, in the model.
        cause: ``"input"``: the images; ``"weight"``, ``"coefficient"``: parameters of the layer;
            ``"overflow"``: input and parameters are finite, the output is not; ``"gradient"``:
            the forward pass is finite, the backward pass is not; ``"unknown"``: not found.
        detail: what was seen, for people.
    """

    layer: str
    cause: str
    detail: str


class Attempt(NamedTuple):
    """A forward pass, with what it takes to do it again.

    Args:
        images: what the model was given.
        loss: what came out.
        random: the state of the generators before it.
    """

    images: Tensor
    loss: Tensor
    random: list[Tensor]


def random_state(device: torch.device) -> list[Tensor]:
    """The state of the generators that a model on this device draws from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


class DivergenceGuard(Callback):
    """Stops a run whose loss, gradient or weights are not finite, before they are used or kept.

    It leaves last_good.ckpt, the state before the bad step if that is finite, else that of the last
    epoch, or of the start; and divergence.json, which holds what was found. While the first epoch
    of a run is under way last_good.ckpt holds its start; a run that ends well has none.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.batch = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run has its divergence behind it."""
        if trainer.is_global_zero:
            (self.out / DIVERGENCE).unlink(missing_ok=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sees to it that there is a checkpoint to go back to."""
        if trainer.strategy.broadcast((self.out / LAST).is_file()):
            self._remove_good(trainer)
        else:
            _save_good(trainer, self.out)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the checkpoint, which best and last have made needless."""
        self._remove_good(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes which batch it is."""
        self.batch = batch_idx

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Checks loss and gradient. Where losses are scaled, the scaler sees to the gradient."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = [] if scaled else [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not _all_finite(trainer, [pl_module.attempt.loss, *gradients]):
            self._stop(trainer, pl_module)
        pl_module.attempt = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the loss of a batch whose gradient waits for those of others."""
        if pl_module.attempt is not None and not _all_finite(trainer, [pl_module.attempt.loss]):
            self._stop(trainer, pl_module)
        pl_module.attempt = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks the weights, or their average, that are to be validated and kept."""
        if not _all_finite(trainer, list(pl_module.parameters())):
            self._stop(trainer, pl_module)

    def _remove_good(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            (self.out / LAST_GOOD).unlink(missing_ok=True)

    def _stop(self, trainer: Trainer, pl_module: Any) -> None:
        good = _save_good(trainer, self.out)
        finding = _agreed(_diagnose(trainer, pl_module, self.batch))
        message = " ".join(
            (
                f"{_symptom(pl_module.attempt)} at step {trainer.global_step} (epoch"
                f" {trainer.current_epoch + 1}, batch {self.batch}): {finding.detail}.",
                f"The {'state before it' if good else 'newest finite state'} is in"
                f" {self.out / LAST_GOOD}.",
                f"{_ADVICE[finding.cause]}.",
            )
        )
        if trainer.is_global_zero:
            record = {"step": trainer.global_step, **asdict(finding), "message": message}
            write_text(self.out / DIVERGENCE, json.dumps(record, indent=2) + "\n")
        raise TrainingDiverged(message)


def read_divergence(out: Path) -> str | None:
    """What stopped a run, in one sentence, or None where nothing did."""
    path = out / DIVERGENCE
    return json.loads(path.read_text(encoding="utf-8"))["message"] if path.is_file() else None


def _symptom(attempt: Attempt | None) -> str:
    if attempt is None:
        return "the weights are not finite"
    if not attempt.loss.isfinite():
        return f"the loss is {attempt.loss.item()}"
    return "the gradient is not finite"


def _all_finite(trainer: Trainer, tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers in all processes are finite.

    The 2-norm is the fastest to say so; where it is not finite, its squares may have overflowed,
    and the largest magnitude decides.
    """
    norms = (nn.utils.get_total_norm(tensors, norm_type=p) for p in (2.0, math.inf))
    finite = any(bool(norm.isfinite()) for norm in norms)
    return trainer.strategy.reduce_boolean_decision(finite, all=True)


def _save_good(trainer: Trainer, out: Path) -> bool:
    """Writes last_good.ckpt, or keeps a former one, and returns whether the state is finite.

    What was written is read again before it takes its place, so that it is known to load.
    """
    partial = out / f".partial-{LAST_GOOD}"
    trainer.save_checkpoint(partial)
    good = trainer.is_global_zero and _holds_finite(partial)
    if good:
        os.replace(partial, out / LAST_GOOD)
    elif trainer.is_global_zero:
        partial.unlink()
        if (out / LAST).is_file():
            with replacing(out / LAST_GOOD) as copy:
                shutil.copyfile(out / LAST, copy)
    return trainer.strategy.broadcast(good)


_STATES = ("state_dict", "current_model_state", "optimizer_states")
"""Weights, or their average and the weights, and the optimiser's moments."""


def _holds_finite(path: Path) -> bool:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    states = [checkpoint[name] for name in _STATES if name in checkpoint]
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(states))


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _tensors(item)


def _agreed(finding: Finding) -> Finding:
    """What all processes say: the finding nearest to the cause, in the order of the advice.

    Their gradients are shared, their images are not: one knows why, the others see that.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return finding
    findings: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(findings, finding)
    nearest = min(findings, key=lambda found: list(_ADVICE).index(found.cause))
    place = findings.index(nearest)
    return replace(nearest, detail=f"{nearest.detail} (in process {place})")


def _diagnose(trainer: Trainer, pl_module: Any, batch: int) -> Finding:
    model, attempt = pl_module.model, pl_module.attempt
    if attempt is None:
        broken = (_broken_parameter(name, module) for name, module in model.named_modules())
        return next((finding for finding in broken if finding), _UNKNOWN)
    bad = (~attempt.images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        listed = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        detail = (
            f"the images are not finite before they reach the model: number {listed} of the"
            f" {len(attempt.images)} in batch {batch} (counted from 0)"
        )
        return Finding("images", "input", detail)
    _set_random_state(attempt.random, attempt.images.device)
    with trainer.precision_plugin.forward_context(), torch.no_grad():
        finding = first_not_finite(model, lambda: model(attempt.images))
    return finding or _bad_gradient(model) or _UNKNOWN


_UNKNOWN = Finding("", "unknown", "the layer that it came from was not found")


class _Found(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


def first_not_finite(model: nn.Module, forward: Callable[[], object]) -> Finding | None:
    """The first module, in the order of the forward pass, that is not finite of its own account.

    That is one whose parameters are not finite, or whose output is not although its input is.
    What happens between modules, such as the sum of a residual branch, counts as done by the
    module around them.

    Args:
        model: its modules are watched; compiled ones run as they are written.
        forward: runs the model on an input that is finite.
    """
    with _watched(model), torch.compiler.set_stance("force_eager"):
        try:
            forward()
        except _Found as found:
            return found.finding
    return None


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    names = {id(module): name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def before(module: nn.Module, args: Any) -> None:
        if running and not _finite(args):
            raise _Found(
                _overflow(names[id(running[-1])], running[-1], "its parts give finite values")
            )
        broken = _broken_parameter(names[id(module)], module)
        if broken:
            raise _Found(broken)
        running.append(module)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        running.pop()
        if not _finite(output):
            largest = max((t.abs().max().item() for t in _tensors(args) if t.numel()), default=0)
            given = f"it is given finite values, up to {largest:.3g},"
            raise _Found(_overflow(names[id(module)], module, given))

    handles = [module.register_forward_pre_hook(before) for module in model.modules()]
    handles += [module.register_forward_hook(after) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(content: Any) -> bool:
    tensors = (tensor for tensor in _tensors(content) if tensor.is_floating_point())
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _broken_parameter(name: str, module: nn.Module) -> Finding | None:
    """What is wrong with a module's own parameters."""
    for key, parameter in module.named_parameters(recurse=False):
        bad = ~parameter.detach().isfinite()
        if not bad.any():
            continue
        value = parameter.detach()[bad][0].item()
        rational = isinstance(module, GroupRational)
        cause = "coefficient" if rational else "weight"
        where = [int(index) for index in bad.nonzero()[0]]
        detail = (
            f"{name or 'the model'} is the first layer that is not finite, for its {cause}"
            f" {key}{where} is {value} ({int(bad.sum())} of {bad.numel()} are not finite)"
        )
        return Finding(name, cause, detail)
    return None


def _overflow(name: str, module: nn.Module, given: str) -> Finding:
    own = [parameter.detach().abs().max().item() for parameter in module.parameters(recurse=False)]
    weights = f" and has parameters up to {max(own):.3g}" if own else ""
    detail = (
        f"{name or 'the model'} is the first layer that is not finite: {given}{weights}, and what"
        " it makes of them is not finite"
    )
    return Finding(name, "overflow", detail)


def _bad_gradient(model: nn.Module) -> Finding | None:
    """The parameter nearest to the output whose gradient is not finite."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            layer, _, key = name.rpartition(".")
            detail = (
                "the forward pass is finite, the backward pass is not, first in"
                f" {layer or 'the model'}, at the gradient of its {key}"
            )
            return Finding(layer, "gradient", detail)
    return None
