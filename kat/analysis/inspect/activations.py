"""Learned rationals: their functions, their start, and the distribution of their inputs.

The inputs of each group are counted in bins of width 1/32 from -64 to 64, batch by batch. The range
that is shown holds the central 99.8 % of a layer's inputs, and at least [-3, 3].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kat.errors import InputError
from kat.nn import GroupRational, LayerHistory, rationals
from kat.nn.rational import channels_at

Array = NDArray[np.float64]

_LIMIT = 64.0
_PER_UNIT = 32
_BINS = int(2 * _LIMIT) * _PER_UNIT
_EDGES = np.linspace(-_LIMIT, _LIMIT, _BINS + 1)
_CENTRAL = 0.998
_LEAST_WIDTH = 3.0
_SHOWN_BINS = 96
"""About so many bins are shown at most; finer ones are merged."""


@dataclass(frozen=True)
class Activation:
    """One rational layer: its functions now and at the start, and its inputs.

    Args:
        name: the name of the layer in the model.
        form: the form of the denominators, ``"A"`` or ``"B"``.
        num_groups: number of groups, each with its function.
        x: (N,), ascending points over the range that is shown.
        learned: (groups, N), the functions at x.
        start: (groups, N), the functions at the start: of the history if there is one, else the
            initial functions of the layer.
        edges: (bins + 1,) of the histogram, from x[0] to x[-1]; None without images.
        histogram: (groups, bins), the density of each group's inputs; it integrates to the share of
            the inputs that is shown. None without images.
        outside: the share of the layer's inputs that is not shown; 0 without images.

    Examples:
        >>> import kat
        >>> from kat.analysis import learned_activations
        >>> first, second = learned_activations(kat.models.create_model("kat_micro", depth=1))
        >>> first.name, first.num_groups, first.learned.shape
        ('blocks.0.mlp.act1', 8, (8, 401))
    """

    name: str
    form: str
    num_groups: int
    x: Array
    learned: Array
    start: Array
    edges: Array | None = None
    histogram: Array | None = None
    outside: float = 0.0

    def densities(self) -> Array:
        """Return the density of each group's inputs at x, (groups, N); without images N(0, 1)."""
        if self.histogram is None or self.edges is None:
            normal = np.exp(-np.square(self.x) / 2) / np.sqrt(2 * np.pi)
            return np.broadcast_to(normal, self.learned.shape)
        places = np.searchsorted(self.edges, self.x, side="right") - 1
        return self.histogram[:, places.clip(0, len(self.edges) - 2)]


def learned_activations(
    model: nn.Module,
    images: Iterable[Tensor] | None = None,
    *,
    width: float | None = None,
    points: int = 401,
    history: Mapping[str, LayerHistory] | None = None,
) -> list[Activation]:
    """Read the rationals of a model, in the order of its modules.

    Args:
        model: with :class:`kat.GroupRational` layers; put it in eval mode first.
        images: batches (B, C, H, W) on the model's device, which the model runs on.
        width: x from -width to width, at most 64; by default as wide as the inputs, or 3 without
            images.
        points: N, the number of points.
        history: the recorded coefficients of the run, by layer. A model that was fine-tuned did not
            start from the initial functions of its layers.

    Raises:
        InputError: the model has no rational, or inputs are not finite.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.analysis import learned_activations
        >>> model = kat.models.create_model("kat_micro", depth=1).eval()
        >>> activations = learned_activations(model, [torch.randn(8, 3, 32, 32)])
        >>> [activation.name for activation in activations]
        ['blocks.0.mlp.act1', 'blocks.0.mlp.act2']
        >>> activations[1].histogram.shape
        (8, 67)
    """
    counts = {} if images is None else _count_inputs(model, images)
    return [
        _activation(name, layer, counts.get(name), width, points, (history or {}).get(name))
        for name, layer in _rationals_of(model).items()
    ]


def _rationals_of(model: nn.Module) -> dict[str, GroupRational]:
    layers = rationals(model)
    if not layers:
        raise InputError(f"{type(model).__name__} has no rational: it is no KAT")
    return layers


@torch.no_grad()
def watch_inputs(
    model: nn.Module, batches: Iterable[Tensor], see: Callable[[str, Tensor], None]
) -> None:
    """Run a model, and pass on the inputs of each of its rationals.

    Args:
        model: with :class:`kat.GroupRational` layers.
        batches: inputs of the model.
        see: called for each batch with the name of a layer and its input by group, (groups, k).

    Raises:
        InputError: the model has no rational.
    """
    layers = _rationals_of(model)

    def note(name: str, layer: GroupRational, x: Tensor) -> None:
        dim = channels_at(x, layer.channel_dim)
        grouped = x.movedim(dim, 0).unflatten(0, (layer.num_groups, -1))
        see(name, grouped.flatten(1))

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


def _count_inputs(model: nn.Module, images: Iterable[Tensor]) -> dict[str, Array]:
    """Return how many inputs lie below, in each bin, and above: (groups, 1 + bins + 1) by layer."""
    counts: dict[str, Array] = {}

    def count(name: str, x: Tensor) -> None:
        places = ((x.double() + _LIMIT) * _PER_UNIT).floor().clamp(-1, _BINS).long() + 1
        offsets = torch.arange(len(x), device=x.device)[:, None] * (_BINS + 2)
        found = torch.bincount((places + offsets).flatten(), minlength=len(x) * (_BINS + 2))
        counts[name] = counts.get(name, 0) + found.view(len(x), -1).double().cpu().numpy()

    watch_inputs(model, images, count)
    return counts


@torch.no_grad()
def _activation(
    name: str,
    layer: GroupRational,
    counts: Array | None,
    width: float | None,
    points: int,
    history: LayerHistory | None,
) -> Activation:
    first, last = _shown_bins(counts, width)
    x = torch.linspace(_EDGES[first], _EDGES[last], points, dtype=torch.float64)
    learned = layer.functions(x).numpy()
    start = (layer.initial_functions(x) if history is None else history.functions(x)[0]).numpy()
    activation = Activation(
        name=name,
        form=layer.form,
        num_groups=layer.num_groups,
        x=x.numpy(),
        learned=learned,
        start=np.broadcast_to(start, learned.shape),
    )
    return activation if counts is None else _with_histogram(activation, counts, first, last)


def _shown_bins(counts: Array | None, width: float | None) -> tuple[int, int]:
    """Return the first bin that is shown, and the one after the last."""
    if counts is not None and width is None:
        below = np.cumsum(counts.sum(0)) / counts.sum()
        tail = (1 - _CENTRAL) / 2
        low, high = np.searchsorted(below, [tail, 1 - tail])
        # Column 0 counts what is below the first bin; a tail beyond the bins is not shown.
        first, last = max(int(low) - 1, 0), min(int(high), _BINS)
    else:
        first = last = _BINS // 2
    least = math.ceil(min(_LEAST_WIDTH if width is None else width, _LIMIT) * _PER_UNIT)
    return min(first, _BINS // 2 - least), max(last, _BINS // 2 + least)


def _with_histogram(activation: Activation, counts: Array, first: int, last: int) -> Activation:
    """Add the counts of the bins that are shown, as densities over merged bins."""
    together = math.ceil((last - first) / _SHOWN_BINS)
    starts = np.arange(first, last, together)
    edges = np.append(_EDGES[starts], _EDGES[last])
    shown = np.add.reduceat(counts[:, 1 + first : 1 + last], starts - first, axis=1)
    return replace(
        activation,
        edges=edges,
        histogram=shown / counts.sum(1, keepdims=True) / np.diff(edges),
        outside=float(1 - shown.sum() / counts.sum()),
    )


def spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` places, evenly spaced, with the first and last."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
