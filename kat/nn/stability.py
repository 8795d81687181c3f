"""Monitors the GR-KAN layers of a model during training.

For a layer y = W F(x) + bias, or y = W (F(x) v) + bias in a gated MLP, F = P / Q, at a training
step:

    gain    = E[y^2] / E[x^2]         1: the layer preserves the second moment
    drift   = |c - c_0| / |c_0|       c: its coefficients, c_0: the initial ones
    outside = share of x outside the interval on which F was fitted

Hooks observe the layers and change nothing: a monitored run gives the same bits as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kat.errors import InputError
from kat.nn.gated import GatedGRKANMlp
from kat.nn.grkan import GRKANLinear, GRKANMlp
from kat.nn.hooks import register_grkan_hook
from kat.nn.rational import GroupRational, channels_at
from kat.ops import rational
from kat.ops.arguments import compute_dtype
from kat.tables import open_table, write_table

Row = dict[str, Any]
"""One layer at one step: ``step``, ``layer``, and the :data:`QUANTITIES` that apply to it."""

QUANTITIES = (
    "input_mean",
    "input_variance",
    "activation_mean",
    "activation_variance",
    "output_mean",
    "output_variance",
    "gain",
    "input_gradient",
    "weight_gradient",
    "numerator_gradient",
    "denominator_gradient",
    "q_min",
    "q_max",
    "outside",
    "drift",
    "dead_groups",
    "exploding_groups",
)
COLUMNS = ("step", "layer", *QUANTITIES)

DEFAULT_INTERVAL = 50
DEAD_VARIANCE = 1e-6
"""A group is dead if the variance of F(x) is below this."""
EXPLODING_MOMENT = 1e4
"""A group explodes if E[F(x)^2] is above this, or not finite."""


@dataclass
class _Layer:
    name: str
    activation: GroupRational
    linear: nn.Module | None
    interval: tuple[float, float]
    start: Tensor


class StabilityMonitor:
    """Records statistics of a model's GR-KAN layers and blocks at regular training steps.

    Args:
        interval: steps between two records; the first record is at step 0.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.nn import StabilityMonitor
        >>> model = kat.GRKANMlp(16, 64)
        >>> monitor = StabilityMonitor(interval=10)
        >>> monitor.attach(model)
        >>> for step in range(20):
        ...     if monitor.due(step):
        ...         monitor.watch()
        ...     model(torch.randn(32, 16)).square().mean().backward()
        ...     if monitor.watching:
        ...         row, *_ = monitor.record(step)
        >>> [(row["step"], row["layer"]) for row in monitor.rows]
        [(0, 'act1'), (0, 'act2'), (10, 'act1'), (10, 'act2')]
    """

    def __init__(self, interval: int = DEFAULT_INTERVAL) -> None:
        self.interval = interval
        self.rows: list[Row] = []
        self._layers: dict[int, _Layer] = {}
        self._blocks: dict[str, nn.Module] = {}
        self._names: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._seen: dict[str, dict[str, Tensor]] = {}
        self._gradients: dict[str, Tensor] = {}

    def attach(self, model: nn.Module) -> None:
        """Find the layers of a model. Drift is measured from their current coefficients.

        Raises:
            InputError: the model has no rational layer.
        """
        self.stop()
        self._layers = {}
        self._names = [name for name, _ in model.named_modules()]
        linears = _linears(model)
        self._blocks = {}
        for name, module in model.named_modules():
            parent = name.rpartition(".")[0]
            if parent and isinstance(module, GRKANMlp | GatedGRKANMlp):
                self._blocks[parent] = model.get_submodule(parent)
            if isinstance(module, GroupRational):
                interval = module.initial_coefficients().interval
                linear = linears.get(id(module))
                layer = _Layer(name, module, linear, interval, _coefficients(module))
                self._layers[id(module)] = layer
        if not self._layers:
            raise InputError(
                f"{type(model).__name__} has no rational layer to monitor; train a KAT, or set"
                " monitor.enabled=false"
            )

    def due(self, step: int) -> bool:
        """Return True if this step, counted from 0, is to be recorded."""
        return step % self.interval == 0

    @property
    def watching(self) -> bool:
        """True while the hooks are in place."""
        return bool(self._handles)

    def watch(self) -> None:
        """Add the hooks for one forward and backward pass.

        Of several passes, the first with a sample counts.

        Discards what was observed since an earlier call and not recorded.
        """
        self.stop()
        self._handles = [register_grkan_hook(self._see_layer)]
        for layer in self._layers.values():
            if layer.linear is None:
                own = layer.activation
                handle = own.register_forward_hook(self._see_rational, with_kwargs=True)
                self._handles.append(handle)
        for name, block in self._blocks.items():
            hook = partial(self._see_block, name)
            self._handles.append(block.register_forward_hook(hook, with_kwargs=True))

    def stop(self) -> None:
        """Remove the hooks, and discard what was observed and not recorded."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._seen, self._gradients = {}, {}

    def record(self, step: int, loss_scale: float = 1.0) -> list[Row]:
        """Remove the hooks and return one row for each layer and block, also added to ``rows``.

        A layer that did not run, as of an expert that no token chose, has no row. To be called
        after the backward pass and before the optimizer step.

        Args:
            step: optimizer steps taken before this one.
            loss_scale: the factor of the loss in the backward pass.
        """
        seen, gradients = self._seen, self._gradients
        self.stop()
        for layer in self._layers.values():
            if layer.name in seen:
                seen[layer.name].update(_parameters_seen(layer))
        for name, gradient in gradients.items():
            seen[name]["input_gradient"] = gradient / loss_scale
        names = [name for name in self._names if name in seen]  # in the order of the model
        values: list[Tensor] = []
        for name in names:
            values += [value.float().reshape(1) for value in seen[name].values()]
        numbers = iter(torch.cat(values).tolist())  # Python waits for the GPU once
        rows: list[Row] = []
        for name in names:
            quantities = dict(zip(seen[name], numbers, strict=False))
            rows.append({"step": step, "layer": name, **quantities})
        self.rows += rows
        return rows

    def save(self, path: str | Path) -> None:
        """Write all rows so far as CSV; cells for quantities that do not apply are empty."""
        write_rows(self.rows, path)

    def resume(self, path: str | Path, step: int) -> None:
        """Restore the rows that a run wrote before the step at which it resumes."""
        if Path(path).is_file():
            self.rows = [row for row in read_rows(path) if row["step"] < step]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the coefficients from which drift is measured, by layer."""
        return {layer.name: layer.start for layer in self._layers.values()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the coefficients from which drift is measured; call after :meth:`attach`."""
        for layer in self._layers.values():
            layer.start = state.get(layer.name, layer.start).to(layer.start)

    def _see_layer(self, activation: Any, linear: Any, x: Tensor, y: Tensor) -> None:
        self._see(activation, x, y)

    def _see_rational(self, module: Any, args: Any, kwargs: Any, y: Tensor) -> None:
        self._see(module, _first(args, kwargs), y)

    def _see(self, activation: nn.Module, x: Tensor, y: Tensor) -> None:
        layer = self._layers.get(id(activation))
        if layer is None or layer.name in self._seen or not x.numel():
            return
        self._seen[layer.name] = _layer_seen(layer, x.detach(), y.detach())
        self._follow(layer.name, x)

    def _see_block(self, name: str, module: nn.Module, args: Any, kwargs: Any, y: Any) -> None:
        if name in self._seen or not isinstance(y, Tensor) or not y.numel():
            return
        x = _first(args, kwargs)
        self._seen[name] = _passed(x.detach(), y.detach())
        self._follow(name, x)

    def _follow(self, name: str, x: Tensor) -> None:
        if x.requires_grad:
            x.register_hook(partial(_see_gradient, self._gradients, name))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the first tensor argument of a module's call, positional or by name."""
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _see_gradient(gradients: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    gradients[name] = _norm(gradient)


def _linears(model: nn.Module) -> dict[int, nn.Module]:
    """Return the linear map after each rational of a GR-KAN layer, by the rational's id."""
    linears: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, GRKANLinear | GRKANMlp | GatedGRKANMlp):
            for activation, *_, linear in module.grkan_layers():
                linears[id(activation)] = linear
    return linears


@torch.no_grad()
def _layer_seen(layer: _Layer, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the quantities of a layer that follow from its input and output."""
    activation = layer.activation
    dim = channels_at(x, activation.channel_dim)
    f = activation.forward(_wide(x)).movedim(dim, -1)  # without its hooks
    x, y = (_wide(t.movedim(dim, -1)) for t in (x, y))
    b, form = activation.weight_denominator, activation.form
    one_over_q = rational(x, x.new_tensor([[1.0, 0.0]]), b, form=form, impl=activation.impl)
    mean, variance = _moments(f, activation.num_groups)
    moment = variance + mean.square()
    seen = _passed(x, y)
    seen["activation_mean"], seen["activation_variance"] = _merge(mean, variance)
    seen["q_min"], seen["q_max"] = 1 / one_over_q.amax(), 1 / one_over_q.amin()
    low, high = layer.interval
    seen["outside"] = torch.count_nonzero(x.clamp(low, high) != x) / x.numel()
    seen["dead_groups"] = (variance < DEAD_VARIANCE).sum()
    seen["exploding_groups"] = (~(moment <= EXPLODING_MOMENT)).sum()  # NaN too
    return seen


@torch.no_grad()
def _passed(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Mean and variance of input and output, and E[y^2] / E[x^2]."""
    mean_in, variance_in = _moments(_wide(x), 1)
    mean_out, variance_out = _moments(_wide(y), 1)
    gain = (variance_out + mean_out.square()) / (variance_in + mean_in.square())
    return {
        "input_mean": mean_in,
        "input_variance": variance_in,
        "output_mean": mean_out,
        "output_variance": variance_out,
        "gain": gain,
    }


@torch.no_grad()
def _parameters_seen(layer: _Layer) -> dict[str, Tensor]:
    """Drift, and the norms of the parameters' gradients."""
    activation, linear = layer.activation, layer.linear
    seen = {"drift": (_coefficients(activation) - layer.start).norm() / layer.start.norm()}
    gradients = {
        "numerator_gradient": _gradient_norms(activation, "weight_numerator"),
        "denominator_gradient": _gradient_norms(activation, "weight_denominator"),
        "weight_gradient": [] if linear is None else _gradient_norms(linear, "weight"),
    }
    return seen | {name: reduce(torch.hypot, norms) for name, norms in gradients.items() if norms}


def _gradient_norms(module: nn.Module, name: str) -> list[Tensor]:
    """Return the norm for a parameter, or for each part of its change by :func:`kat.adapt`."""
    trained = (p for key, p in module.named_parameters() if name in key.split("."))
    return [_norm(p.grad) for p in trained if p.grad is not None]


@torch.no_grad()
def _coefficients(activation: GroupRational) -> Tensor:
    parts = (activation.weight_numerator, activation.weight_denominator)
    return torch.cat([part.detach().flatten() for part in parts])


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach(), dtype=compute_dtype(tensor.dtype))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(compute_dtype(tensor.dtype))


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each group of channels, the last dimension: (groups,) each.

    First by channel, with the variance about the channel's own mean: accurate where means are
    large, and ten times as fast as ``torch.var_mean`` on a CPU.
    """
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    variance = (rows - mean).square_().mean(0)
    return _merge(mean.view(groups, -1), variance.view(groups, -1))


def _merge(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the union of equally large parts, over the last dimension."""
    whole = mean.mean(-1)
    return whole, (variance + (mean - whole[..., None]).square()).mean(-1)


def write_rows(rows: Sequence[Row], path: str | Path) -> None:
    """Write rows as CSV; cells for quantities that do not apply are empty."""
    write_table(path, COLUMNS, rows)


def read_rows(path: str | Path) -> list[Row]:
    """Read a file of :func:`write_rows`.

    Raises:
        InputError: the file is missing, or something else.
    """
    missing = "no step was monitored; train with --monitor"
    with open_table(path, "a record of the stability monitor", missing) as lines:
        return [_row(line) for line in lines]


def _row(line: dict[str, str]) -> Row:
    values = {name: float(line[name]) for name in QUANTITIES if line[name] != ""}
    return {"step": int(line["step"]), "layer": line["layer"], **values}
