"""How much replaced MLPs change their own outputs and that of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from kat.errors import InputError
from kat.models.evaluation_mode import evaluation_mode
from kat.models.kanify.calibrate import Run
from kat.models.kanify.replacement import Replacement


@dataclass(frozen=True)
class Change:
    """|y' - y| / |y| on a batch, in the 2-norm, with all MLPs replaced.

    Args:
        of_each: of the output of each MLP, that is of its second linear map, by the name of the
            activation; NaN for one that the batch does not reach.
        of_all: of the model's output.
    """

    of_each: dict[str, float]
    of_all: float


def measure_change(
    model: nn.Module, replacements: list[Replacement], batch: Any, run: Run
) -> Change:
    """Runs the model on a batch as it is and with all MLPs replaced.

    The model runs in evaluation mode without gradients, and is restored afterwards.

    Raises:
        InputError: the output has no floating-point tensor, or is zero.
    """
    before = _outputs(model, replacements, batch, run)
    undo = [step for replacement in replacements for step in replacement.put(model)]
    try:
        after = _outputs(model, replacements, batch, run)
    finally:
        while undo:
            undo.pop()()
    *each, whole = map(_moved, before, after)
    if math.isnan(whole):
        raise InputError("the change cannot be measured: the output has no numbers but zero")
    names = [replacement.mlp.activation for replacement in replacements]
    return Change(dict(zip(names, each, strict=True)), whole)


def _outputs(
    model: nn.Module, replacements: list[Replacement], batch: Any, run: Run
) -> list[list[Tensor]]:
    """The tensors in the outputs of all calls of each MLP and, last, in that of the model."""
    outputs: list[list[Tensor]] = [[] for _ in replacements]
    handles = []
    for replacement, seen in zip(replacements, outputs, strict=True):
        second = model.get_submodule(replacement.mlp.second)
        hook = partial(_keep, seen)
        handles.append(second.register_forward_hook(hook))
    try:
        with evaluation_mode(model):
            return [*outputs, list(_tensors(run(model, batch)))]
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: list[Tensor], module: nn.Module, args: Any, output: Any) -> None:
    seen.extend(tensor.clone() for tensor in _tensors(output))


def _moved(before: list[Tensor], after: list[Tensor]) -> float:
    """|y' - y| / |y|; NaN if y is zero, or nothing."""
    pairs = list(zip(before, after, strict=True))
    size = sum(b.double().square().sum().item() for b, _ in pairs)
    moved = sum((a.double() - b.double()).square().sum().item() for b, a in pairs)
    return math.sqrt(moved / size) if size else math.nan


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in an output of any structure."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output.cpu()
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
