"""Runs of a model with other modules in the places of activations: calibration."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.evaluation_mode import evaluation_mode
from kat.models.kanify.fit import SeenInputs
from kat.models.kanify.regenerate import codes_of, regenerate
from kat.models.kanify.trace import unchanged
from kat.models.kanify.walk import Mlp, linear_map

Run = Callable[[nn.Module, Any], Any]

_FUSED_INFERENCE = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
"""The attributes by which ``nn.TransformerEncoder`` and its layers select fused code for inference,
which reads the weights and bypasses the modules, and the values that disable it."""
_EVEN_RANKS, _END_RANKS = 2001, 200
_EVEN_POINTS = 400
_MARGIN = 0.1


def put(model: nn.Module, modules: Mapping[Mlp, nn.Module]) -> None:
    """Put modules in the places of the activations of MLPs.

    Raises:
        LookupError: code that calls one cannot be regenerated. Others may be in place.
    """
    codes: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for mlp in modules:
        for name in mlp.followed:  # closures call the present activation
            holder, _, function = name.rpartition(".")
            codes[holder][function] |= {}
        if mlp.call is not None:
            codes[mlp.owner][mlp.code][mlp.call] = mlp.attribute
    for holder, places in codes.items():
        regenerate(model, holder, places)
    for mlp, module in modules.items():
        setattr(model.get_submodule(mlp.owner), mlp.attribute, module)
        disable_fused_inference(model, mlp.activation)


def activation_of(model: nn.Module, mlp: Mlp) -> Callable[..., Any]:
    """The module or function that is an MLP's activation; for a call, a module that computes it.

    Raises:
        AttributeError, LookupError: the model has no such place.
    """
    owner = model.get_submodule(mlp.owner)
    if mlp.call is None:
        activation: Callable[..., Any] = getattr(owner, mlp.attribute)
        return activation
    return codes_of(model, mlp.owner)[mlp.code].regions[mlp.call].module(owner)


def disable_fused_inference(model: nn.Module, name: str) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Make ``nn.TransformerEncoder`` call the modules around an attribute of this full name.

    Returns:
        The modules around it, and the attributes that they had.
    """
    parts, before = name.split(".")[:-1], []
    for count in range(len(parts) + 1):
        around = model.get_submodule(".".join(parts[:count]))
        before.append((around, {n: vars(around)[n] for n in _FUSED_INFERENCE if n in vars(around)}))
        vars(around).update({n: v for n, v in _FUSED_INFERENCE.items() if n in vars(around)})
    return before


def run_batch(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``; ``model(**batch)`` for a mapping, ``model(*batch)`` for a tuple or list."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def seen_inputs(
    model: nn.Module,
    mlps: list[Mlp],
    batches: Iterable[Any],
    run: Run,
    interval: tuple[float, float],
) -> dict[Mlp, SeenInputs]:
    """Record the inputs of each activation while the model runs on some batches.

    An input x of channel c has the weight |W_2 e_c|^2: for independent errors e(x) the squared
    error of the MLP's output is the sum of e(x)^2 |W_2 e_c|^2, if it is not gated.

    The model runs in evaluation mode without gradients, and is restored afterwards.

    Args:
        model: before it is kanified.
        mlps: with the activations.
        batches, run: ``run(model, batch)`` is called for each batch.
        interval: to cover in any case.

    Returns:
        The inputs, without those that no batch reaches.

    Raises:
        InputError: no activation is reached.
    """
    recorders = {mlp: _Recorder(model, mlp) for mlp in mlps}
    with unchanged(model):
        put(model, recorders)
        with evaluation_mode(model):
            for batch in batches:
                try:
                    run(model, batch)
                except TypeError as error:
                    error.add_note("batch with labels: run=lambda model, batch: model(batch[0])")
                    raise
    reached = {mlp: recorder for mlp, recorder in recorders.items() if recorder.x}
    if not reached:
        raise InputError(
            f"the calibration batches reach no MLP, among {len(recorders)}; give batches that do"
        )
    return {mlp: recorder.seen(interval) for mlp, recorder in reached.items()}


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


@torch.no_grad()
def channel_weights(linear: nn.Module) -> Tensor | None:
    """|W e_c|^2 for each input channel c of a linear map: (d_in,), in float64, on its device.

    It is computed from outputs, as the weights may be transposed or quantized. The bias is zero
    meanwhile: in low precision W e_c would be lost beside a large one.

    Returns:
        The weights, or None for a module of other maps, as experts are.
    """
    mapped, weight = linear_map(linear), getattr(linear, "weight", None)
    if mapped is None or not isinstance(weight, Tensor):
        return None
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    unit = torch.eye(mapped.d_in, dtype=dtype, device=weight.device)
    unit = unit.reshape(*unit.shape, *(1,) * (-1 - mapped.channel_dim))  # one position
    bias = dict(linear.named_parameters(recurse=False)).get("bias")
    with unchanged(linear):
        if bias is not None:
            zeros = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
            linear.register_parameter("bias", zeros)
        zero = linear.forward(torch.zeros_like(unit[:1]))
        columns = [(linear.forward(rows) - zero).flatten(1) for rows in unit.split(1024)]
    return torch.cat([column.double().square().sum(-1) for column in columns])
