"""Where adapters go in a model: what there is, and whether a record's entry fits it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from kat.errors import InputError
from kat.models.adapt.changes import has_change
from kat.models.adapt.parallel import NAME
from kat.models.kanify.finders.find import find
from kat.models.kanify.finders.linear import linear_map
from kat.nn import GRKANMlp, GroupRational, rationals

Place = dict[str, Any]
"""The settings of one adapter, for JSON."""


def rational_places(model: nn.Module, rank: int | None) -> dict[str, Place]:
    """The rationals of a model by name.

    Args:
        model: any model.
        rank: of low-rank changes, None for others.

    Raises:
        InputError: there are none.
    """
    found = rationals(model)
    if not found:
        raise InputError(
            f"{type(model).__name__} has no rational; kat.kanify(model) puts rationals in the place"
            " of its activations"
        )
    return {name: {**_shape(act), "rank": rank} for name, act in found.items()}


def mlp_places(model: nn.Module, width: int) -> dict[str, Place]:
    """The MLPs of a model by the name of their last module: those of GR-KAN, and kanify's.

    Args:
        model: any model.
        width: of the bottleneck beside each.

    Raises:
        InputError: there are none.
    """
    places = {}
    for name, module in model.named_modules():
        if isinstance(module, GRKANMlp):
            places[name] = _beside(name, module.fc1.in_features, width, module.fc2.out_features)
    found = find(model)
    for mlp in found.mlps:
        maps = [linear_map(model.get_submodule(name)) for name in (mlp.first, mlp.second)]
        if mlp.activation in found.heads or any(m is None or m.channel_dim != -1 for m in maps):
            continue  # no MLP of a block; weights of experts or convolutions
        places[mlp.second] = _beside(mlp.first, mlp.widths[0], width, mlp.widths[-1])
    if not places:
        raise InputError(
            f"{type(model).__name__} has no MLP that an adapter could be put beside, but plain ones"
            " and GRKANMlps have: not gated ones of kat, and none with an adapter. kat.kanify hides"
            " those that it takes: adapt first"
        )
    return places


def check_size(name: str, value: object) -> None:
    """Raises InputError unless a rank or width is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value!r}")


def check_free(model: nn.Module, places: Iterable[str]) -> None:
    """Raises InputError if an adapter is in one of the places already."""
    for name in places:
        module = model.get_submodule(name)
        if isinstance(module, GroupRational) and has_change(module):
            raise InputError(f"{name} has a change already; merge() or remove() it first")
        if hasattr(module, NAME):
            raise InputError(f"{name} has something named {NAME!r} already; remove() it first")


def is_adapted(module: nn.Module | None) -> bool:
    """Whether a module has an adapter: a rational a change, another one a bottleneck."""
    if isinstance(module, GroupRational):
        return has_change(module)
    return module is not None and hasattr(module, NAME)


def adapted_modules(model: nn.Module) -> set[str]:
    """The names of the modules that have an adapter."""
    return {name for name, module in model.named_modules() if is_adapted(module)}


def check_rational(modules: Mapping[str, nn.Module], name: str, place: Place) -> None:
    """Raises InputError unless a model has the rational of a record."""
    act = modules.get(name)
    if not isinstance(act, GroupRational):
        raise InputError(
            f"the adapters are of another model: {name!r} is no rational here; a model that was"
            " kanified for training must be kanified before loading, by kanify_like"
        )
    here = _shape(act)
    different = [key for key in here if here[key] != place[key]]
    if different:
        key = different[0]
        raise InputError(
            f"the adapters are of another model: {name} has {key} {here[key]!r} here, not"
            f" {place[key]!r}"
        )
    if place["rank"] is not None:
        check_size("rank", place["rank"])


def check_mlp(modules: Mapping[str, nn.Module], name: str, place: Place) -> None:
    """Raises InputError unless a model has the MLP of a record."""
    first, last = modules.get(place["first"]), modules.get(name)
    d_in, width, d_out = place["widths"]
    check_size("width", width)
    if first is None or last is None or (_width(first, 0), _width(last, -1)) != (d_in, d_out):
        raise InputError(
            f"the adapters are of another model: there is no MLP from {place['first']!r} to"
            f" {name!r} here, with the widths {d_in} and {d_out}"
        )


def _shape(act: GroupRational) -> Place:
    """What must be equal in a model that the coefficients are loaded into."""
    return {
        "num_groups": act.num_groups,
        "degree": list(act.degree),
        "form": act.form,
        "share": act.share,
    }


def _beside(first: str, d_in: int, width: int, d_out: int) -> Place:
    return {"first": first, "widths": [d_in, width, d_out]}


def _width(module: nn.Module, side: int) -> int | None:
    """The input (0) or output (-1) width of a linear map or a GR-KAN MLP."""
    if isinstance(module, GRKANMlp):
        return (module.fc1.in_features, module.fc2.out_features)[side]
    widths = linear_map(module)
    return None if widths is None else (widths.d_in, widths.d_out)[side]
