"""The MLPs of a model: a linear map, an element-wise activation, a linear map, in this order.

They are found by what the model's code does with its modules (:mod:`kat.models.kanify.trace`): the
names of models, classes and attributes do not matter, and neither does the order in which modules
were registered. No sample input is needed.
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
from kat.models.kanify.trace import held_functions, linear_widths, trace

_DROPOUTS = (nn.Identity, nn.modules.dropout._DropoutNd)
_NORMS = (nn.LayerNorm, nn.RMSNorm)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Mlp:
    """W_2 f(W_1 x + b_1) + b_2 inside a model, f and the linear maps by their full names.

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
    passed_over: dict[str, str]


def find(model: nn.Module) -> Found:
    """Looks at every activation of a model, and changes nothing."""

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
                    found.passed_over[name] = str(reason)
                continue
            function = function_of(activation)
            if function != "identity":
                widths = (*_widths(model, first), _widths(model, second)[1])
                found.mlps.append(Mlp(name, first, second, widths, function))
    return found


class _NoMlp(Exception):
    """Why an activation stands in no MLP."""


def joined(path: str, name: str) -> str:
    """The full name of an attribute of a module."""
    return f"{path}.{name}" if path else name


def _candidates(module: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The children and functions of a module that may be activations, by attribute."""
    if linear_widths(module) is not None or not any(module.children()):
        return
    for name, child in module._modules.items():
        if child is not None and _may_be_activation(child):
            yield name, child
    yield from held_functions(module).items()


def function_of(activation: Callable[..., Any]) -> str | None:
    """The known function that it computes; None if it is another one, or has parameters."""
    return None if _has_tensors(activation) else known_function(activation)


def _widths(model: nn.Module, linear: str) -> tuple[int, int]:
    widths = linear_widths(model.get_submodule(linear))
    assert widths is not None
    return widths


def _may_be_activation(module: nn.Module) -> bool:
    if any(module.children()) or isinstance(module, _DROPOUTS):
        return False
    return not _has_tensors(module) or type(module).__module__ == nn.PReLU.__module__


def _has_tensors(activation: object) -> bool:
    if not isinstance(activation, nn.Module):
        return False
    return bool(activation._parameters or activation._buffers)


def _linear_maps_around(
    model: nn.Module, owner: str, attribute: str, graph: Callable[[str], fx.Graph | None]
) -> tuple[str, str]:
    """The names of the linear maps around an activation.

    Where the code of its owner takes its input from the caller or returns its output, as BERT's
    does, the code of the module that holds the owner is followed too; no farther, since what lies
    apart is not one MLP.

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
    raise _NoMlp("no two linear maps beside it in the code that could be followed")


def _owner_and_holder(model: nn.Module, owner: str) -> list[str]:
    """The owner of an activation and the module that holds it, lists and the like left out."""
    parts = owner.split(".") if owner else []
    paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return [p for p in paths if not isinstance(model.get_submodule(p), _CONTAINERS)][:2]


def _linear_before(module: nn.Module, node: fx.Node) -> str | None:
    """The linear map whose output is the node's input; None where that is the caller's.

    Raises:
        _NoMlp: it is neither, or used elsewhere too.
    """
    while True:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            raise _NoMlp("its input is none that the code shows")
        if source.op == "placeholder":
            return None
        if len(source.users) > 1:
            raise _NoMlp(f"its input, from {_described(module, source)}, is used elsewhere too")
        if _is_linear(module, source):
            return str(source.target)
        if source.target is operator.getitem:
            raise _NoMlp("its input is a part of a tensor, as in gated MLPs")
        if not _keeps_order(module, source, _DROPOUTS):
            raise _NoMlp(f"its input comes from {_described(module, source)}, no linear map")
        node = source


def _linear_after(module: nn.Module, node: fx.Node) -> str | None:
    """The linear map whose input is the node's output; None where that is returned.

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
        if not _keeps_order(module, user, (*_DROPOUTS, *_NORMS)):
            raise _NoMlp(f"its output goes to {_described(module, user)}, no linear map")
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
