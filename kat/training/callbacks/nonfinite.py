"""Finds the origin of non-finite values by repeating a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kat.errors import InputError
from kat.nn import GroupRational
from kat.nn.sharded import whole
from kat.text import listing

_LOWER = "a lower optim.lr, a longer optim.warmup_epochs, or optim.clip_grad=1"
ADVICE = {
    "input": "Look at the images of this batch, and at augment and data.mean and data.std",
    "weight": f"Did the model start from such weights? If not, try {_LOWER}",
    "coefficient": f"Did the model start from such coefficients? If not, try {_LOWER}",
    "state": f"Try {_LOWER}",
    "overflow": f"Try {_LOWER}; with a reduced precision also precision=32-true",
    "gradient": f"Try {_LOWER}; with a reduced precision also precision=32-true",
    "sharded": f"Try {_LOWER}. To find the layer, use another strategy than fsdp",
    "unknown": f"It did not occur again when the step was repeated. Try {_LOWER}",
}
"""Advice by cause; causes closer to the origin come first."""


@dataclass(frozen=True)
class Finding:
    """The origin of a non-finite value.

    Args:
        layer: name of the module in the model.
        cause: ``"input"``: the images; ``"weight"``, ``"coefficient"``: parameters of the layer;
            ``"state"``: a buffer, the EMA or the optimizer's state; ``"overflow"``: input and
            parameters are finite, the output is not; ``"gradient"``: the forward pass is finite,
            the backward pass is not; ``"sharded"``: not searched for in sharded weights;
            ``"unknown"``: not found.
        detail: description for the user.
    """

    layer: str
    cause: str
    detail: str


UNKNOWN = Finding("", "unknown", "the layer where it arose was not found")
SHARDED = Finding("", "sharded", "the layer where it arose is not searched for in sharded weights")


class Attempt(NamedTuple):
    """A forward pass that can be repeated.

    Args:
        images: (B, C, H, W) or a list of images, the input of the model.
        loss: resulting loss.
        random: states of the random number generators before it.
        forward: repeats the forward pass.
    """

    images: Tensor | list[Tensor]
    loss: Tensor
    random: list[Tensor]
    forward: Callable[[], object]


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the random number generators that a model on a device uses."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def diagnose(
    model: nn.Module, attempt: Attempt, batch: str, context: AbstractContextManager[Any]
) -> Finding:
    """Finds out why a loss or gradient is not finite: checks images, then layers, then gradients.

    With sharded weights only the images are checked, since all ranks would have to repeat the
    forward pass together, but each may stop at another layer.

    Args:
        model: the model; it runs again with the same random numbers.
        attempt: the forward pass; the model holds its gradients, if any.
        batch: name of the batch for the message, e.g. ``"batch 3"``.
        context: context of the forward pass, such as autocast.
    """
    finite = [bool(image.isfinite().all()) for image in attempt.images]
    bad = [index for index, fine in enumerate(finite) if not fine]
    if bad:
        detail = (
            f"the images are not finite before they reach the model: number {listing(bad, 5)} of"
            f" the {len(attempt.images)} in {batch} (counted from 0)"
        )
        return Finding("images", "input", detail)
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return SHARDED
    _set_random_state(attempt.random, attempt.loss.device)
    with context, torch.no_grad():
        finding = first_not_finite(model, attempt.forward)
    return finding or _bad_gradient(model) or UNKNOWN


def diagnose_state(model: nn.Module, state: Mapping[str, Tensor]) -> Finding:
    """Finds the first non-finite tensor: the model's parameters first, then the state in order.

    Args:
        model: the model.
        state: tensors by descriptive names, e.g. ``"exp_avg_sq of head.weight"``.
    """
    for name, module in model.named_modules():
        broken = _broken_parameter(name, module)
        if broken:
            return broken
    for name, tensor in state.items():
        bad = ~tensor.isfinite()
        if bad.any():
            layer = name.rpartition(" of ")[2].rpartition(".")[0]
            detail = (
                f"{name} is {tensor[bad][0].item()} ({int(bad.sum())} of {bad.numel()} are not"
                " finite)"
            )
            return Finding(layer, "state", detail)
    return UNKNOWN


class _Found(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


def first_not_finite(model: nn.Module, forward: Callable[[], object]) -> Finding | None:
    """The first module, in forward order, that produces non-finite values itself.

    Its parameters are not finite, or its output is not finite although its input is. Operations
    between modules, such as a residual sum, are attributed to the enclosing module.

    Args:
        model: the model; compiled modules run in eager mode.
        forward: runs the model on a finite input.
    """
    with _watched(model), torch.compiler.set_stance("force_eager"):
        try:
            forward()
        except _Found as found:
            return found.finding
    return None


def not_finite(source: object, model: nn.Module, forward: Callable[[], object]) -> InputError:
    """The error that the output of a model is not finite, and where that begins.

    Args:
        source: path of the model, or a name for it.
        model: the model.
        forward: runs the model on the same input again.
    """
    finding = first_not_finite(model, forward)
    where = finding.detail if finding else "all layers were finite when the batch was run again"
    return InputError(
        f"the logits of {source} are not finite; its weights are damaged or its training"
        f" diverged: {where}"
    )


@contextmanager
def finite_within(
    source: object, model: nn.Module, parts: Iterable[nn.Module], forward: Callable[[], object]
) -> Iterator[None]:
    """Refuses outputs of parts of a model that are not finite, where its own output hides them.

    Args:
        source, model, forward: see :func:`not_finite`.
        parts: modules whose outputs are finite in a sound model.

    Raises:
        InputError: one was not finite inside the context.
    """

    def check(module: nn.Module, args: Any, output: Any) -> None:
        if not _finite(output):
            raise _Hidden

    handles = [part.register_forward_hook(check) for part in parts]
    hidden = False
    try:
        yield
    except _Hidden:
        hidden = True
    finally:
        for handle in handles:
            handle.remove()
    if hidden:
        raise not_finite(source, model, forward)


class _Hidden(Exception):
    """The output of a part is not finite."""


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    names = {id(module): name for name, module in model.named_modules()}
    running: list[nn.Module] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if running and not _finite((args, kwargs)):
            raise _Found(
                _overflow(names[id(running[-1])], running[-1], "its submodules give finite values")
            )
        broken = _broken_parameter(names[id(module)], module)
        if broken:
            raise _Found(broken)
        running.append(module)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        running.pop()
        if not _finite(output):
            given = [t.abs().max().item() for t in _tensors((args, kwargs)) if t.numel()]
            seen = f"its input is finite (up to {max(given, default=0):.3g})"
            raise _Found(_overflow(names[id(module)], module, seen))

    handles = [
        handle
        for module in model.modules()
        for handle in (
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(content: Any) -> bool:
    tensors = (tensor for tensor in _tensors(content) if tensor.is_floating_point())
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _tensors(item)


def _broken_parameter(name: str, module: nn.Module) -> Finding | None:
    """The first non-finite parameter of a module, without its submodules."""
    for key, parameter in module.named_parameters(recurse=False):
        values = whole(parameter.detach())
        bad = ~values.isfinite()
        if not bad.any():
            continue
        value = values[bad][0].item()
        rational = isinstance(module, GroupRational)
        cause = "coefficient" if rational else "weight"
        where = [int(index) for index in bad.nonzero()[0]]
        detail = (
            f"{name or 'the model'} is the first layer that is not finite: its {cause}"
            f" {key}{where} is {value} ({int(bad.sum())} of {bad.numel()} are not finite)"
        )
        return Finding(name, cause, detail)
    return None


def _overflow(name: str, module: nn.Module, given: str) -> Finding:
    own = [parameter.detach().abs().max().item() for parameter in module.parameters(recurse=False)]
    weights = f", its parameters are up to {max(own):.3g}" if own else ""
    detail = (
        f"{name or 'the model'} is the first layer that is not finite: {given}{weights}, but its"
        " output is not finite"
    )
    return Finding(name, "overflow", detail)


def _bad_gradient(model: nn.Module) -> Finding | None:
    """The parameter closest to the output whose gradient norm is not finite.

    If only the total norm is not finite, the parameter with the largest gradient norm.
    """
    named = reversed(list(model.named_parameters()))
    gradients = {name: p.grad for name, p in named if p.grad is not None}
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in gradients.items()}
    if not norms or nn.utils.get_total_norm(list(gradients.values())).isfinite():
        return None
    bad = [name for name, norm in norms.items() if not norm.isfinite()]
    name = bad[0] if bad else max(norms, key=lambda name: norms[name].item())
    layer, _, key = name.rpartition(".")
    largest = gradients[name].abs().max()
    finite = bool(largest.isfinite())
    detail = (
        f"the forward pass is finite, {'the squares of ' if finite else ''}the backward pass"
        f" {'are' if finite else 'is'} not, first in {layer or 'the model'}, at the gradient of"
        f" its {key}{f', up to {largest:.3g}' if finite else ''}"
    )
    return Finding(layer, "gradient", detail)
