"""Find where the numbers of a model stop being finite, by repeating its forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kat.errors import InputError
from kat.text import listing

_LOWER = "Try a lower optim.lr, a longer optim.warmup_epochs, or optim.clip_grad=1"
ADVICE = {
    "input": "Look at the images of this batch, and at augment and data.mean and data.std",
    "weight": f"If the model did not start from it: {_LOWER}",
    "state": _LOWER,
    "overflow": f"{_LOWER}; with a reduced precision also precision=32-true",
    "gradient": f"{_LOWER}; with a reduced precision also precision=32-true",
    "unknown": _LOWER,
}
"""Advice by cause; causes closer to the origin come first."""


@dataclass(frozen=True)
class Finding:
    """The origin of a value that is not finite.

    Args:
        layer: name of the module in the model.
        cause: ``"input"``: the images; ``"weight"``: a parameter; ``"state"``: a buffer, the EMA or
            the optimizer's state; ``"overflow"``: the output of a layer; ``"gradient"``: the
            forward pass is finite; ``"unknown"``: not found.
        detail: description for the user.
    """

    layer: str
    cause: str
    detail: str


UNKNOWN = Finding("", "unknown", "it was finite when the step was repeated")
_SHARDED = Finding("", "unknown", "the layer where it arose is not searched for in sharded weights")


def find_origin(
    model: nn.Module, images: Iterable[Tensor], forward: Callable[[], object], batch: str
) -> Finding:
    """Find why a loss or gradient is not finite: look at images, weights, layers, then gradients.

    With sharded weights only the images are looked at, since all ranks would have to repeat the
    forward pass together, but each may stop at another layer.

    Args:
        model: the model, with its gradients if any.
        images: its input.
        forward: repeats the forward pass.
        batch: name of the batch for the message, e.g. ``"batch 3"``.
    """
    bad = [index for index, image in enumerate(images) if not image.isfinite().all()]
    if bad:
        numbers = f"number {listing(bad, 5)} in {batch} (counted from 0)"
        detail = f"the images are not finite before they reach the model: {numbers}"
        return Finding("images", "input", detail)
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return _SHARDED
    weights = dict(model.named_parameters())
    with torch.no_grad():
        found = find_in_state(weights, "weight") or find_layer(model, forward)
    return found or _find_gradient(model) or UNKNOWN


def find_in_state(state: Mapping[str, Tensor], cause: str) -> Finding | None:
    """Find the first tensor that is not finite, e.g. ``"exp_avg_sq of head.weight"``."""
    for name, tensor in state.items():
        bad = ~tensor.isfinite()
        if bad.any():
            where, value = bad.nonzero()[0].tolist(), tensor[bad][0].item()
            count = f"{int(bad.sum())} of {bad.numel()} are not finite"
            layer = name.rpartition(" of ")[2].rpartition(".")[0]
            return Finding(layer, cause, f"{name}{where} is {value} ({count})")
    return None


class _StopForward(Exception):
    """The forward pass need not go on."""


def find_layer(model: nn.Module, forward: Callable[[], object]) -> Finding | None:
    """Find the first module, in forward order, whose input or output is not finite.

    Args:
        model: the model; compiled modules run in eager mode.
        forward: runs the model on a finite input.
    """
    found: list[Finding] = []
    names = {module: name or "the model" for name, module in model.named_modules()}

    def look(where: str, module: nn.Module, args: Any, content: Any) -> None:
        if not _is_finite((args, content)):
            name = names[module]
            detail = f"{name} is the first layer that is not finite, at its {where}"
            found.append(Finding(name.replace("the model", ""), "overflow", detail))
            raise _StopForward

    before, after = partial(look, "input"), partial(look, "output")  # content: keywords, or output
    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in names]
    handles += [m.register_forward_hook(after) for m in names]
    try:
        with torch.compiler.set_stance("force_eager"):
            forward()
    except _StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def finite_output(source: object, model: nn.Module, forward: Callable[[], Tensor]) -> Tensor:
    """Run a forward pass and return its output, or say where it stops being finite.

    Args:
        source: path of the model, or a name for it.
        model: the model.
        forward: runs the model; called again if the output is not finite.

    Raises:
        InputError: the output is not finite.
    """
    output = forward()
    if not output.isfinite().all():
        raise _not_finite(source, model, forward)
    return output


def _not_finite(source: object, model: nn.Module, forward: Callable[[], object]) -> InputError:
    found = find_in_state(dict(model.named_parameters()), "weight") or find_layer(model, forward)
    return InputError(
        f"the logits of {source} are not finite; its weights are damaged or its training"
        f" diverged: {(found or UNKNOWN).detail}"
    )


def check_weights(source: object, model: nn.Module) -> None:
    """Refuse weights that are not finite, where the output of the model hides them."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise _not_finite(source, model, lambda: None)


def _is_finite(content: Any) -> bool:
    if isinstance(content, Tensor):
        return not content.is_floating_point() or bool(content.isfinite().all())
    if isinstance(content, dict):
        content = list(content.values())
    return not isinstance(content, list | tuple) or all(map(_is_finite, content))


def _find_gradient(model: nn.Module) -> Finding | None:
    """Find the parameter closest to the output whose gradient, squared, is not finite."""
    for name, parameter in reversed(list(model.named_parameters())):
        gradient = parameter.grad
        if gradient is not None and not torch.linalg.vector_norm(gradient).isfinite():
            layer, _, key = name.rpartition(".")
            largest = gradient.abs().max()
            squares = f"; its largest entry is {largest:.3g}" if largest.isfinite() else ""
            detail = (
                f"the forward pass is finite, and the gradient is not, first in"
                f" {layer or 'the model'}, at its {key}{squares}"
            )
            return Finding(layer, "gradient", detail)
    return None
