"""The MLPs of a model: a linear map, an element-wise activation, a linear map, in this order.

They are found by what the code of the model does with its modules (:mod:`kat.models.kanify.trace`).
Names of models, classes and attributes do not matter, nor does the order in which modules were
registered. No sample input is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn

from kat.models.kanify.activation import SUPPORTED, known_function
from kat.models.kanify.trace import held_functions, linear_widths, named_children, trace

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_IDENTITIES = (nn.Identity, *DROPOUTS)
_NORMS = (nn.LayerNorm, nn.RMSNorm)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Mlp:
    """W_2 f(W_1 x + b_1) + b_2 in a model, f and the linear maps by their full names.

    Args:
        activation: the name of f, a module or a function held as an attribute.
        first, second: the names of the linear maps before and after it.
        widths: (d_in, d_hidden, d_out).
        function: the name of f among the known functions, None if it is another one.
    """

    activation: str
    first: str
    second: str
    widths: tuple[int, int, int]
    function: str | None


@dataclass(frozen=True)
class Found:
    """All MLPs of a model in the order of its modules, and why other activations are in none."""

    mlps: list[Mlp]
    skipped: dict[str, str]


def find(model: nn.Module) -> Found:
    """Finds the MLPs of a model, without changing it."""

    @cache
    def graph(path: str) -> fx.Graph | None:
        return trace(model.get_submodule(path))

    found = Found([], {})
    for owner, module in model.named_modules():
        for attribute, activation in _candidates(module):
            name = joined(owner, attribute)
            try:
                first, second = _linear_maps_around(model, owner, attribute, graph)
            except _NoMlp as reason:
                if isinstance(activation, nn.Module) and function_of(activation) in SUPPORTED:
                    found.skipped[name] = str(reason)
                continue
            function = function_of(activation)
            if function != "identity":
                widths = (*_widths(model, first), _widths(model, second)[1])
                found.mlps.append(Mlp(name, first, second, widths, function))
    return found


class _NoMlp(Exception):
    """Why an activation is not in an MLP."""


def joined(path: str, name: str) -> str:
    """The full name of an attribute of a module."""
    return f"{path}.{name}" if path else name


def function_of(activation: Callable[..., Any]) -> str | None:
    """The known function that it computes; None if it is another one, or has parameters."""
    return None if _has_tensors(activation) else known_function(activation)


def _candidates(module: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The children and functions of a module that may be activations, by attribute."""
    if linear_widths(module) is not None or not any(module.children()):
        return
    for name, child in named_children(module).items():
        if _may_be_activation(child):
            yield name, child
    yield from held_functions(module).items()


def _may_be_activation(module: nn.Module) -> bool:
    if any(module.children()) or isinstance(module, _IDENTITIES):
        return False
    return not _has_tensors(module) or type(module).__module__ == nn.PReLU.__module__


def _has_tensors(activation: object) -> bool:
    """Whether it is a module with parameters or buffers of its own, be they None."""
    if not isinstance(activation, nn.Module):
        return False
    # dir() of a module lists its parameters, buffers and children beside its attributes.
    registered = set(dir(activation)) - set(vars(activation)) - set(dir(type(activation)))
    return bool(registered - set(named_children(activation)))


def _widths(model: nn.Module, linear: str) -> tuple[int, int]:
    widths = linear_widths(model.get_submodule(linear))
    assert widths is not None
    return widths


def _linear_maps_around(
    model: nn.Module, owner: str, attribute: str, graph: Callable[[str], fx.Graph | None]
) -> tuple[str, str]:
    """The names of the linear maps before and after an activation.

    If the input of the activation comes from the caller of its owner, or its output is returned, as
    in BERT, the code of the module that holds the owner is followed too. It is followed no farther:
    modules farther apart are not one MLP.

    Raises:
        _NoMlp: there are none.
    """
    name = joined(owner, attribute)
    for path in _owner_and_holder(model, owner):
        target, traced = name[len(path) :].lstrip("."), graph(path)
        calls = [
            node
            for node in (traced.nodes if traced else ())
            if _is_call(node) and node.target == target
        ]
        if len(calls) > 1:
            raise _NoMlp("it is called more than once")
        for call in calls:
            module = model.get_submodule(path)
            first, second = _linear_before(module, call), _linear_after(module, call)
            if first and second:
                return joined(path, first), joined(path, second)
    raise _NoMlp("the code that could be traced has no linear map on either side of it")


def _owner_and_holder(model: nn.Module, owner: str) -> list[str]:
    """The owner of an activation and the module that holds it, except lists and dictionaries."""
    parts = owner.split(".") if owner else []
    paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return [p for p in paths if not isinstance(model.get_submodule(p), _CONTAINERS)][:2]


def _linear_before(module: nn.Module, node: fx.Node) -> str | None:
    """The linear map whose output is the node's input; None if the caller provides that.

    Raises:
        _NoMlp: it is neither, or is also used elsewhere.
    """
    while True:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            raise _NoMlp("its input does not appear in the code")
        if source.op == "placeholder":
            return None
        if len(source.users) > 1:
            raise _NoMlp(f"its input, from {_described(module, source)}, is also used elsewhere")
        if _is_linear(module, source):
            return str(source.target)
        if source.target is operator.getitem:
            raise _NoMlp("its input is a part of a tensor, as in gated MLPs")
        if not _keeps_order(module, source, _IDENTITIES):
            raise _NoMlp(f"its input comes from {_described(module, source)}, not a linear map")
        node = source


def _linear_after(module: nn.Module, node: fx.Node) -> str | None:
    """The linear map whose input is the node's output; None if that is returned.

    Raises:
        _NoMlp: it is neither.
    """
    while True:
        if len(node.users) != 1:
            raise _NoMlp("its output does not go to a linear map alone")
        user = next(iter(node.users))
        if user.op == "output":
            return None
        if next(iter((*user.args, *user.kwargs.values()))) is node and _is_linear(module, user):
            return str(user.target)
        if user.target in (operator.mul, torch.mul):
            raise _NoMlp("its output is a gate that something is multiplied by")
        if not _keeps_order(module, user, (*_IDENTITIES, *_NORMS)):
            raise _NoMlp(f"its output goes to {_described(module, user)}, not a linear map")
        node = user


def _is_call(node: fx.Node) -> bool:
    return node.op == "call_module"


def _is_linear(module: nn.Module, node: fx.Node) -> bool:
    return _is_call(node) and linear_widths(module.get_submodule(str(node.target))) is not None


def _keeps_order(module: nn.Module, node: fx.Node, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a step may stand between an activation and a linear map."""
    if _is_call(node):
        return isinstance(module.get_submodule(str(node.target)), kinds)
    return node.target in (torch.nn.functional.dropout, torch.dropout)


def _described(module: nn.Module, node: fx.Node) -> str:
    if _is_call(node):
        return type(module.get_submodule(str(node.target))).__name__
    return getattr(node.target, "__name__", str(node.target))
