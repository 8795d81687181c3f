"""The inputs of activations on calibration batches, as the points that rationals are fitted to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.evaluation_mode import evaluation_mode
from kat.models.kanify.finders.linear import channel_weights
from kat.models.kanify.finders.mlp import Mlp
from kat.models.kanify.places import activation_of, put_activation
from kat.nn.coefficients import KANIFY_INTERVAL

Run = Callable[[nn.Module, Any], Any]

_EVEN_RANKS, _END_RANKS = 2001, 200
_EVEN_POINTS = 400
_MARGIN = 0.1


@dataclass(frozen=True)
class SeenInputs:
    """The inputs of an activation, weighted by their squared effect on the output of the MLP.

    Args:
        x: (k,) float64, increasing: the inputs, and evenly spaced points that cover their range, a
            margin of a tenth of it on both sides, and an interval.
        effect: (k,) float64, the weight of each as an input; their sum is 1.
        even: (k,), the weight of each as one of the even points; their sum is 1.
    """

    x: Tensor
    effect: Tensor
    even: Tensor


def run_batch(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``; ``model(**batch)`` for a mapping, ``model(*batch)`` for a tuple or list."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def seen_inputs(
    model: nn.Module,
    mlps: list[Mlp],
    batches: Iterable[Any],
    run: Run = run_batch,
    interval: tuple[float, float] = KANIFY_INTERVAL,
) -> dict[str, SeenInputs]:
    """Records the inputs of each activation while the model runs on some batches.

    An input x of channel c has the weight |W_2 e_c|^2: for independent errors e(x) the squared
    error of the MLP's output is the sum of e(x)^2 |W_2 e_c|^2, if it is not gated.

    The model runs in evaluation mode without gradients, and is restored afterwards.

    Args:
        model: before it is kanified.
        mlps: with the activations.
        batches, run: ``run(model, batch)`` is called for each batch.
        interval: to cover in any case.

    Returns:
        The inputs by the name of the activation, without those that no batch reaches.

    Raises:
        InputError: there are no batches, no activation is reached, inputs are not finite, or the
            model has no weights.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError("calibration runs the model, but the model is on the meta device")
    recorders = {mlp.activation: _Recorder(model, mlp) for mlp in mlps}
    count = 0
    with _recording(model, recorders.values()):
        for batch in batches:
            run(model, batch)
            count += 1
    if not count:
        raise InputError("calibration has no batches; give an iterable of the model's inputs")
    reached = {name: recorder for name, recorder in recorders.items() if recorder.x}
    if not reached:
        raise InputError(
            f"the calibration batches reach no MLP, among {len(mlps)}; give batches that do"
        )
    return {name: recorder.seen(interval) for name, recorder in reached.items()}


class _Recorder(nn.Module):
    """An activation that keeps order statistics of its inputs, densest at the extremes."""

    def __init__(self, model: nn.Module, mlp: Mlp) -> None:
        super().__init__()
        self.mlp = mlp
        self.activation = activation_of(model, mlp)
        weights = channel_weights(model.get_submodule(mlp.second))
        # If no channel has an effect, as in layers initialized to zero, all have the same weight.
        if weights is None or not weights.any():
            weights = torch.ones(mlp.widths[1], dtype=torch.float64, device="cpu")
        self.channel_weights = weights
        self.x: list[Tensor] = []
        self.weight: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        """f(x), with some of the values kept, each with the weight of its neighborhood."""
        rows = x.detach().movedim(self.mlp.channel_dim, -1)
        values, order = rows.flatten().double().sort()
        if len(values):
            if not values[[0, -1]].isfinite().all():
                raise InputError(f"calibration: the input of {self.mlp.activation} is not finite")
            ranks = _ranks(len(values)).to(x.device)
            effects = self.channel_weights.to(x.device)
            sums = effects[order % rows.shape[-1]].cumsum(0)
            between = sums[(ranks[:-1] + ranks[1:]) // 2]
            ends = sums.new_zeros(1), sums[-1:]
            self.x.append(values[ranks].cpu())
            self.weight.append(torch.cat([ends[0], between, ends[1]]).diff().cpu())
        return self.activation(x)

    def seen(self, interval: tuple[float, float]) -> SeenInputs:
        """The values of all calls, and the even points."""
        x, weight = torch.cat(self.x), torch.cat(self.weight)
        least, most = x.min().item(), x.max().item()
        margin = _MARGIN * (most - least)
        low, high = min(least - margin, interval[0]), max(most + margin, interval[1])
        x = torch.cat([x, torch.linspace(low, high, _EVEN_POINTS, dtype=x.dtype, device="cpu")])
        points, place = x.unique(return_inverse=True)
        effect, even = torch.zeros(2, len(points), dtype=x.dtype, device="cpu")
        effect.index_add_(0, place[:-_EVEN_POINTS], weight / weight.sum())
        even += place[-_EVEN_POINTS:].bincount(minlength=len(points)) / _EVEN_POINTS
        return SeenInputs(points, effect, even)


def _ranks(count: int) -> Tensor:
    """Ranks from 0 to count - 1, evenly spaced, and in geometric steps from both ends."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    even = torch.linspace(0, count - 1, _EVEN_RANKS, **options).long().clamp(max=count - 1)
    end = torch.logspace(0, math.log10(count), _END_RANKS, **options).long().clamp(1, count) - 1
    return torch.cat([even, end, count - 1 - end]).unique()


@contextmanager
def _recording(model: nn.Module, recorders: Iterable[_Recorder]) -> Iterator[None]:
    """Evaluation mode without gradients, with recorders in the places of activations."""
    undo: list[Callable[[], None]] = []
    try:
        for recorder in recorders:
            undo += put_activation(model, recorder.mlp, recorder)
        with evaluation_mode(model):
            yield
    finally:
        while undo:
            undo.pop()()
