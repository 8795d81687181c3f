"""The cases of a trained model: its own coefficients, over the inputs that they really see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kat.analysis.verify_cases import DTYPES, Case, make_case
from kat.errors import InputError
from kat.nn import GroupRational

_POINTS = 16


@dataclass(frozen=True)
class Inputs:
    """The smallest and largest input of each group of a rational layer: (groups,) each."""

    layer: str
    low: np.ndarray
    high: np.ndarray


@torch.no_grad()
def record_inputs(model: nn.Module, batches: Iterable[Tensor]) -> list[Inputs]:
    """Runs a model and notes what reaches its rationals.

    Args:
        model: holds :class:`kat.GroupRational` layers.
        batches: its inputs.

    Raises:
        InputError: the model has no rational, or one of them was not reached or saw numbers that
            are not finite.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, GroupRational)}
    if not layers:
        raise InputError("the model has no rational to verify: it is no KAT")
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}

    def note(name: str, layer: GroupRational, x: Tensor) -> None:
        groups = x.movedim(layer.channel_dim, -1).unflatten(-1, (layer.num_groups, -1))
        others = [d for d in range(groups.dim()) if d != groups.dim() - 2]
        least, most = groups.double().amin(others), groups.double().amax(others)
        low[name] = torch.minimum(low.get(name, least), least)
        high[name] = torch.maximum(high.get(name, most), most)

    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: note(name, m, args[0]))
        for name, layer in layers.items()
    ]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in low or not (low[name].isfinite() & high[name].isfinite()).all():
            raise InputError(f"the inputs of {name} are not finite, or none reached it")
    return [Inputs(name, low[name].cpu().numpy(), high[name].cpu().numpy()) for name in layers]


def model_cases(
    model: nn.Module, inputs: Sequence[Inputs], dtypes: Sequence[str]
) -> Iterator[Case]:
    """A case for every group of every rational layer and every dtype, x evenly over its inputs."""
    for seen in inputs:
        layer = model.get_submodule(seen.layer)
        assert isinstance(layer, GroupRational)
        a, b = (
            weight.detach().double().cpu().expand(layer.num_groups, -1).numpy()
            for weight in (layer.weight_numerator, layer.weight_denominator)
        )
        for group in range(layer.num_groups):
            name = f"{seen.layer} group {group}"
            between = np.linspace(seen.low[group], seen.high[group], _POINTS)
            for dtype in dtypes:
                limit = torch.finfo(DTYPES[dtype]).max
                x = np.clip(between, -limit, limit)[None]
                where = f"{x.min():.3g}..{x.max():.3g}"
                yield make_case(
                    layer.form, dtype, name, a[group], b[group], x, [where], special=False
                )
