"""Kanifying a model by the record of another plan, without search or fit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kat.documents import read_json
from kat.errors import InputError
from kat.models.kanify.activation import activation_function, kind_of
from kat.models.kanify.config import divisor
from kat.models.kanify.finders.linear import expert_widths, linear_map
from kat.models.kanify.finders.mlp import Mlp
from kat.models.kanify.fit import Fitted
from kat.models.kanify.places import activation_of
from kat.models.kanify.plan import VERSION, Plan
from kat.models.kanify.replacement import Replacement
from kat.models.pretrained import KINDS, Kind, Rename, noted, renames
from kat.nn import Coefficients, GroupRational


def kanify_like(model: nn.Module, record: Mapping[str, Any] | str | Path) -> Plan:
    """Kanifies a model like another one of the same structure, ready for its state dict.

    Args:
        model: is changed in place.
        record: what :meth:`Plan.record` returns, or the file that :meth:`Plan.save` wrote.

    Raises:
        InputError: the record is invalid or does not fit the model, which is then unchanged.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> from kat.models.kanify import kanify_like
        >>> plan = kat.kanify(nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4)))
        >>> other = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> _ = kanify_like(other, plan.record())
        >>> other.load_state_dict(plan.model.state_dict())
        <All keys matched successfully>
    """
    content = read_json(Path(record)) if isinstance(record, str | Path) else record
    try:
        if content["kanify"] != VERSION:
            raise InputError(
                f"the record has version {content['kanify']!r}; only {VERSION} is supported"
            )
        replacements = [_replacement(model, entry) for entry in content["mlps"]]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a record of kanify: no valid entry {error}") from None
    _check_distinct(model, replacements)
    plan = Plan(model, replacements, {})
    plan.apply()
    return plan


def _replacement(model: nn.Module, entry: Mapping[str, Any]) -> Replacement:
    """The replacement of one MLP of a record, checked against the model."""
    d_in, d_hidden, d_out = entry["mlp"]["widths"]
    followed = tuple(entry["mlp"].get("followed", ()))
    mlp = Mlp(**{**entry["mlp"], "widths": (d_in, d_hidden, d_out), "followed": followed})
    _check_same(model, mlp)
    before, after = entry["groups"]
    for count, width in ((before, d_in), (after, d_hidden)):
        if count is not None:
            divisor(mlp, width, count)
    coefficients = Coefficients.from_dict(entry["coefficients"], "the record")
    errors = float(entry["max_error"]), float(entry["rms_error"])
    fitted = Fitted(coefficients, *errors, bool(entry["seen"]))
    of_first, of_second = entry["share"]
    return Replacement.make(model, mlp, fitted, (before, int(after)), (of_first, of_second))


def _check_same(model: nn.Module, mlp: Mlp) -> None:
    """Raises InputError unless the model has this MLP."""
    try:
        here = _widths(model, mlp)
        activation = activation_of(model, mlp)
    except AttributeError:
        raise InputError(f"the record is of another model: no MLP at {mlp.activation}") from None
    if here != mlp.widths:
        raise InputError(
            f"the record is of another model: the MLP of {mlp.activation} has the widths {here}"
            f" here, not {mlp.widths}"
        )
    if isinstance(activation, GroupRational):
        raise InputError(f"{mlp.activation} is a rational already")
    is_meta = isinstance(activation, nn.Module) and any(p.is_meta for p in activation.parameters())
    function = None if is_meta else activation_function(activation)
    name = kind_of(activation) if is_meta else function and function.name
    if name != mlp.function:
        raise InputError(
            f"the record is of another model: {mlp.activation} is {kind_of(activation)} here, not"
            f" {mlp.function}"
        )


def _widths(model: nn.Module, mlp: Mlp) -> tuple[int, int, int] | None:
    """The widths of the MLP at the place of another, None if there is no such MLP."""
    modules = (model.get_submodule(name) for name in (mlp.first, mlp.second))
    first, second = map(linear_map, modules)
    if first and second:
        hidden, out = second.d_in, first.d_out
        same = out == hidden or (mlp.gate is not None and out > hidden)
        return (first.d_in, hidden, second.d_out) if same else None
    experts = expert_widths(model.get_submodule(mlp.owner))
    return experts[:3] if experts else None


def _check_distinct(model: nn.Module, replacements: list[Replacement]) -> None:
    """Raises InputError if a record is empty, or has two rationals in one place."""
    linear_maps = [model.get_submodule(r.mlp.first) for r in replacements if r.act1 is not None]
    for places in ([r.mlp.activation for r in replacements], linear_maps):
        if len(set(places)) < len(places):
            raise InputError("not a record of kanify: it names an MLP twice")
    if not replacements:
        raise InputError("not a record of kanify: it names no MLP")


def note_shares(model: nn.Module) -> None:
    """Brings up to date what the configuration of a model says of the coefficients shared."""
    modules = dict(model.named_modules())

    def named(name: str) -> Any:
        """The module of this name in the model as it was recorded, with or without its head."""
        found = (modules.get(rename(name)) for rename in renames(model))
        return next((module for module in found if module is not None), None)

    for record in noted(model):
        for entry in record.get("mlps", ()):
            act, first = named(entry["mlp"]["activation"]), named(entry["mlp"]["first"])
            first = getattr(first, "base_layer", first)  # of PEFT's LoRA
            if act is not None:  # else the part of the model that was adapted lacks it
                before = first.act1 if entry["groups"][0] else act  # its own, not another MLP's
                entry["share"] = [before.share, act.share]


def _renamed(record: Mapping[str, Any], rename: Rename) -> dict[str, Any]:
    renamed = copy.deepcopy(dict(record))
    for entry in renamed["mlps"]:
        for part in ("activation", "first", "second", "gate"):
            entry["mlp"][part] = entry["mlp"][part] and rename(entry["mlp"][part])
        entry["mlp"]["followed"] = [rename(name) for name in entry["mlp"].get("followed", ())]
    return renamed


KINDS["kanify"] = Kind(kanify_like, _renamed)
