"""Runs of a model with other modules in the places of activations: calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError, first_line
from kat.models.evaluation_mode import evaluation_mode
from kat.models.kanify.fit import SeenInputs
from kat.models.kanify.layers import LinearMap, around, layer_of, linear_map
from kat.models.kanify.trace import unchanged
from kat.models.kanify.walk import Site

Run = Callable[[nn.Module, Any], Any]

_FUSED_INFERENCE = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
"""The attributes by which ``nn.TransformerEncoder`` and its layers select fused code for inference,
which reads the weights and bypasses the modules, and the values that disable it."""
_EVEN_RANKS, _END_RANKS = 2001, 200
_EVEN_POINTS = 400
_MARGIN = 0.1


def put(model: nn.Module, modules: Mapping[Site, nn.Module]) -> None:
    """Put modules in the places of activations."""
    for site, module in modules.items():
        owner, _, attribute = site.activation.rpartition(".")
        setattr(model.get_submodule(owner), attribute, module)
        disable_fused_inference(model, site.activation)


def disable_fused_inference(model: nn.Module, name: str) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Make ``nn.TransformerEncoder`` call the modules around an attribute of this full name.

    Returns:
        The modules around it, and the attributes that they had.
    """
    before = []
    for path in around(name):
        module = model.get_submodule(path)
        own = {name: vars(module)[name] for name in _FUSED_INFERENCE if name in vars(module)}
        before.append((module, own))
        vars(module).update({name: _FUSED_INFERENCE[name] for name in own})
    return before


def run_batch(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``; ``model(**batch)`` for a mapping, ``model(*batch)`` for a tuple or list.

    Raises:
        InputError: the model fails on a tuple or list, which may have labels.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    if not isinstance(batch, tuple | list):
        return model(batch)
    try:
        return model(*batch)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"calibration: model(*batch) fails: {first_line(error)}. If only the first value of a"
            " batch is an input, as of images with labels, pass run=lambda model, batch:"
            " model(batch[0])"
        ) from error


def seen_inputs(
    model: nn.Module,
    sites: list[Site],
    batches: Iterable[Any],
    run: Run,
    interval: tuple[float, float],
) -> dict[str, tuple[Site, SeenInputs]]:
    """Record the inputs of each activation while the model runs on some batches.

    An input x of channel c has the weight |W_2 e_c|^2: for independent errors e(x) the squared
    error of the MLP's output is the sum of e(x)^2 |W_2 e_c|^2, if it is not gated. Outside of MLPs
    all channels have the same weight.

    The model runs in evaluation mode without gradients, and is restored afterwards.

    Args:
        model: before it is kanified.
        sites: the activations.
        batches, run: ``run(model, batch)`` is called for each batch.
        interval: to cover in any case.

    Returns:
        By the name of each activation that a batch reaches: its site, with the channels if these
        were unclear, and the inputs.

    Raises:
        InputError: no activation is reached.
    """
    last: list[LinearMap] = []  # the layer that ran last
    recorders = {site: _Recorder(model, site, last) for site in sites}
    with unchanged(model):
        for module in model.modules():
            layer = layer_of(module)
            if layer:
                module.register_forward_hook(partial(_note, last, layer))
        put(model, recorders)
        with evaluation_mode(model):
            for batch in batches:
                run(model, batch)
    reached = [recorder for recorder in recorders.values() if recorder.samples]
    if not reached:
        raise InputError(
            f"the calibration batches reach no activation, among {len(recorders)}; give batches"
            " that do"
        )
    return {each.site.activation: (each.seen_site(), each.seen(interval)) for each in reached}


def _note(last: list[LinearMap], layer: LinearMap, module: Any, args: Any, output: Any) -> None:
    last[:] = [layer]


class _Recorder(nn.Module):
    """An activation that keeps order statistics of its inputs, densest at the extremes.

    Args:
        model: has the activation.
        site: the activation.
        last: the layer that ran last, for the channels.
    """

    def __init__(self, model: nn.Module, site: Site, last: list[LinearMap]) -> None:
        super().__init__()
        self.site = site
        self.last = last
        self.activation = attrgetter(site.activation)(model)
        effects = channel_weights(model.get_submodule(site.second))
        # If no channel has an effect, as in layers initialized to zero, all weigh the same.
        if effects is None or not effects.any():
            effects = torch.ones(1, dtype=torch.float64)
        self.effects = effects
        self.samples: list[Tensor] = []
        self.shapes: list[torch.Size] = []
        self.dims: set[int | None] = set()  # None: no layer shows it

    def forward(self, x: Tensor) -> Any:
        """f(x), with some of the values kept, each with the weight of its neighborhood."""
        self.shapes.append(x.shape)
        if x.ndim > 2:
            fits = {
                each.channel_dim for each in self.last if x.shape[each.channel_dim] == each.d_out
            }
            self.dims |= fits or {None}
        values, order = x.detach().movedim(self.site.channel_dim, -1).flatten().double().sort()
        if len(values):
            ranks = _ranks(len(values)).to(x.device)
            sums = self.effects.to(x.device)[order % len(self.effects)].cumsum(0)
            between = sums[(ranks[:-1] + ranks[1:]) // 2]
            weight = between.diff(prepend=sums.new_zeros(1), append=sums[-1:])
            self.samples.append(torch.stack([values[ranks], weight]).cpu())
        return self.activation(x)

    def seen_site(self) -> Site:
        """Return the site, with channels that were unclear as the layer before a call has them."""
        known = (self.dims or {-1}) - {None}
        if self.site.widths or len(known) != 1:
            return self.site
        dim: Any = known.pop()
        widths = tuple(sorted({shape[dim] for shape in self.shapes}))
        return replace(self.site, widths=widths, channel_dim=dim)

    def seen(self, interval: tuple[float, float]) -> SeenInputs:
        """Return the values of all calls, and the even points."""
        x, weight = torch.cat(self.samples, 1)
        if not x.isfinite().all():
            raise InputError(
                "calibration: an activation has inputs that are not finite: leave out the batches"
                " with NaN or infinite values"
            )
        least, most = map(float, x.aminmax())
        margin = _MARGIN * (most - least)
        low, high = min(least - margin, interval[0]), max(most + margin, interval[1])
        x = torch.cat([x, torch.linspace(low, high, _EVEN_POINTS, dtype=x.dtype, device="cpu")])
        points, place = x.unique(return_inverse=True)
        effect = place[:-_EVEN_POINTS].bincount(weight / weight.sum(), len(points))
        even = place[-_EVEN_POINTS:].bincount(minlength=len(points)) / _EVEN_POINTS
        return SeenInputs(points, effect, even.double())


def _ranks(count: int) -> Tensor:
    """Ranks from 0 to count - 1, evenly spaced, and in geometric steps from both ends."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    even = torch.linspace(0, count - 1, _EVEN_RANKS, **options).long().clamp(max=count - 1)
    end = torch.logspace(0, math.log10(count), _END_RANKS, **options).long().clamp(1, count) - 1
    return torch.cat([even, end, count - 1 - end]).unique()


def channel_weights(linear: nn.Module) -> Tensor | None:
    """|W e_c|^2 for each input channel c of a linear map: (d_in,), in float64, on its device.

    Returns:
        The weights, or None for a module of other maps, as experts are, and for quantized weights.
    """
    weight: Any = getattr(linear, "weight", None)
    if linear_map(linear) is None or type(weight) not in (Tensor, nn.Parameter):
        return None
    rows = weight.detach().T if type(linear).__name__ == "Conv1D" else weight.detach().flatten(1)
    return torch.linalg.vector_norm(rows, dim=0, dtype=torch.float64).square()
