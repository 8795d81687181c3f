"""Functions that a model has learned, as numbers: coefficients, and the density of their inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import kat
from kat.nn import group_functions, rationals
from kat.nn.fitting import Points, fit

EDGES = torch.linspace(-8, 8, 401)
"""The bins of the inputs of a rational."""


def functions_of(
    blocks: Iterable[nn.Module], validate: Callable[[], object]
) -> list[dict[str, Any]]:
    """The rationals of the MLP of each block, with the density of their inputs on validation data.

    Args:
        blocks: of a model, with the MLP as ``mlp``.
        validate: runs the model on validation data.
    """
    blocks = list(blocks)
    counts: dict[nn.Module, Tensor] = {}

    def count(act: nn.Module, inputs: tuple[Tensor]) -> None:
        new = torch.histc(inputs[0].float(), len(EDGES) - 1, EDGES[0].item(), EDGES[-1].item())
        counts[act] = counts.get(act, 0) + new.double()

    acts = set(rationals(nn.ModuleList(blocks)).values())  # blocks may share one
    hooks = [act.register_forward_pre_hook(count) for act in acts]
    validate()
    for hook in hooks:
        hook.remove()
    layers = []
    for block in blocks:
        layer = {}
        for name, act in rationals(block.mlp).items():
            layer[name] = {
                "form": act.form,
                "numerator": act.weight_numerator.tolist(),
                "denominator": act.weight_denominator.tolist(),
                "density": (counts[act] / counts[act].sum()).mul(1e6).round().div(1e6).tolist(),
            }
        layers.append(layer)
    return layers


def average_of(functions: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """The least-squares fit of the mean curve of rationals, weighted by their inputs' density."""
    x = (EDGES[1:] + EDGES[:-1]).double() / 2
    curves, density = [], torch.zeros_like(x)
    for own in functions:
        a, b = torch.tensor(own["numerator"]), torch.tensor(own["denominator"])
        curves.append(group_functions(x, a, b, own["form"]).mean(0))
        density += torch.tensor(own["density"])
    mean = torch.stack(curves).mean(0)
    inside = density > 0
    points = Points("mean", *(values[inside].numpy() for values in (x, mean, density)))
    degree = a.shape[1] - 1, b.shape[1]
    found = fit(points, degree, functions[0]["form"], method="least_squares")
    return torch.tensor([found.numerator]).float(), torch.tensor([found.denominator]).float()


@torch.no_grad()
def load(act: kat.GroupRational, given: tuple[Tensor, Tensor]) -> None:
    """Gives a rational the coefficients of another.

    Raises:
        SystemExit: their degrees or numbers of groups differ.
    """
    own = act.weight_numerator, act.weight_denominator
    for parameter, values in zip(own, given, strict=True):
        if values.shape not in (parameter.shape, (1, parameter.shape[1])):
            shapes = f"{tuple(values.shape)} and {tuple(parameter.shape)}"
            raise SystemExit(f"the functions do not fit: coefficients of the shapes {shapes}")
        parameter.copy_(values.expand(parameter.shape))
