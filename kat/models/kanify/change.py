"""How much replaced MLPs change the output of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.kanify.calibrate import Run, evaluation_mode
from kat.models.kanify.replacement import Replacement


@dataclass(frozen=True)
class Change:
    """|y' - y| / |y| of a model's output y on a batch, in the 2-norm.

    Args:
        of_each: by the name of the activation, with that MLP alone replaced.
        of_all: with all of them replaced.
    """

    of_each: dict[str, float]
    of_all: float


def measure_change(
    model: nn.Module, replacements: list[Replacement], batch: Any, run: Run
) -> Change:
    """Runs the model on a batch as it is, with each MLP replaced by itself, and with all.

    The model runs in evaluation mode without gradients, and is restored afterwards.

    Raises:
        InputError: the output has no floating-point tensor, or is zero.
    """

    def output(replaced: list[Replacement]) -> Tensor:
        undo = [step for replacement in replaced for step in replacement.put(model)]
        try:
            with evaluation_mode(model):
                values = [t.double().flatten() for t in _tensors(run(model, batch))]
        finally:
            while undo:
                undo.pop()()
        return torch.cat(values) if values else torch.zeros(0)

    before = output([])
    if not before.any():
        raise InputError("the change cannot be measured: the output has no numbers but zero")
    changes = [
        ((output(replaced) - before).norm() / before.norm()).item()
        for replaced in (*([r] for r in replacements), replacements)
    ]
    names = [replacement.mlp.activation for replacement in replacements]
    return Change(dict(zip(names, changes, strict=False)), changes[-1])


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
