"""From an activation in the graph of some code, backward and forward to the linear maps around it.

A replaced activation leaves the function of the model as it was, whatever stands around it; what is
required here says which activations are those of MLPs.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import fx, nn

from kat.models.kanify.finders.linear import LinearMap, is_depthwise, linear_map
from kat.models.kanify.finders.mlp import Mlp, NoMlp, joined
from kat.models.kanify.finders.trace import THROUGH

DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
IDENTITIES = (nn.Identity, *DROPOUTS)
_NORM = re.compile(r"(norm|grn)([1-3]d)?$", re.IGNORECASE)
_DROPOUTS = {torch.nn.functional.dropout, torch.dropout}
_CASTS = {"to", "float", "type_as", "contiguous", "clone"}
_MOVES = {
    "transpose", "permute", "flatten", "unflatten", "reshape", "view", "movedim", "swapaxes",
    "squeeze", "unsqueeze", "Permute",
}  # fmt: skip
_SPLITS = {"chunk", "split", "unbind", "tensor_split"}
_SIZES = {"size", "dim", "getattr"}
_PRODUCTS = {"mul"}


class _Source(NamedTuple):
    """The linear map that a value comes from: its call, and whether the value is a part of its
    output, and its channels moved to another dimension."""

    call: fx.Node
    is_part: bool
    is_moved: bool


class _Target(NamedTuple):
    """The linear map that a value goes to; the gate's on the way there."""

    call: fx.Node
    gate: fx.Node | None
    is_moved: bool


class Walk:
    """Steps through the graph of a module.

    Args:
        model: with the module.
        path: the name of the module in the model.
    """

    def __init__(self, model: nn.Module, path: str) -> None:
        self.module = model.get_submodule(path)
        self.path = path

    def mlp(
        self, activation: str, before: fx.Node, after: fx.Node, inside: list[fx.Node]
    ) -> Mlp | None:
        """The MLP around an activation; None if the caller of the code has a part of it.

        Args:
            activation: its name.
            before, after: its input and its output.
            inside: the steps from the one to the other.

        Raises:
            NoMlp: there is no MLP around it.
        """
        source = self._source(before, inside)
        target = self._target(after, source)
        if source is None or target is None:
            return None
        first, second = self._map(source.call), self._map(target.call)
        hidden = second.d_in
        if first.d_out != hidden and not (source.is_part and first.d_out > hidden):
            raise NoMlp(f"its {first.d_out} channels are not the {hidden} of the next linear map")
        if source.is_moved and target.is_moved:
            raise NoMlp("the dimension of its channels is unclear: they are moved before and after")
        steps = (source.call, *inside, target.gate or target.call, target.call)
        followed = dict.fromkeys(name for node in steps for name in node.meta.get(THROUGH, ()))
        return Mlp(
            activation,
            self._name(source.call),
            self._name(target.call),
            (first.d_in, hidden, second.d_out),
            "",
            gate=None if target.gate is None else self._name(target.gate),
            channel_dim=(second if source.is_moved else first).channel_dim,
            followed=tuple(joined(self.path, name) for name in followed),
        )

    def _source(self, value: fx.Node, inside: list[fx.Node]) -> _Source | None:
        """Where a value comes from; None if the caller provides it.

        Args:
            value: the value.
            inside: the steps that use it.
        """
        is_part = is_moved = False
        while value.op != "placeholder":
            users = [user for user in value.users if not asks_size(user)]
            sliced = all(_is_slice(user) for user in users)
            if not sliced and not set(inside).issuperset(users):
                what = self._described(value)
                raise NoMlp(f"its input, from {what}, is also used elsewhere")
            if self._is_linear(value):
                return _Source(value, is_part, is_moved)
            if _is_slice(value):
                is_part = True
            elif self._moves(value):
                is_moved = True
            elif not self._keeps(value) and _function(value) not in _SPLITS:
                self._check_no_lora(value.all_input_nodes)
                what = self._described(value)
                raise NoMlp(f"its input comes from {what}, not a linear map")
            inside, value = [value], input_of(value)
        return None

    def _target(self, value: fx.Node, source: _Source | None) -> _Target | None:
        """Where a value goes; None if it is returned."""
        gate, is_moved = None, False
        while True:
            users = [user for user in value.users if not asks_size(user)]
            if len(users) != 1:
                self._check_no_lora(users)
                raise NoMlp("its output does not go to a linear map alone")
            user = users[0]
            if user.op == "output":
                return None
            if self._is_linear(user) and input_of(user) is value:
                return _Target(user, gate, is_moved)
            if _function(user) in _PRODUCTS:
                gate = self._gate(user, value, source)
            elif self._moves(user):
                is_moved = True
            elif not self._keeps(user) and not self._is_norm(user):
                what = self._described(user)
                raise NoMlp(f"its output goes to {what}, not a linear map")
            value = user

    def _gate(self, product: fx.Node, value: fx.Node, source: _Source | None) -> fx.Node:
        """The call of the linear map V in f(W x) * V x."""
        others = [node for node in product.all_input_nodes if node is not value]
        other = self._source_or_none(others[0], product) if others else None
        if source and other:
            packed = other.call is source.call
            if packed or input_of(other.call) is input_of(source.call):
                return other.call
        raise NoMlp("it is multiplied by something else than a linear map of the same input")

    def _source_or_none(self, value: fx.Node, user: fx.Node) -> _Source | None:
        try:
            return self._source(value, [user])
        except NoMlp:
            return None

    def _check_no_lora(self, nodes: Iterable[fx.Node]) -> None:
        """Raises NoMlp if one of these steps is a linear map inside a layer of PEFT."""
        for node in nodes:
            name = self._name(node)
            if name.endswith(".base_layer"):
                layer = name.removesuffix(".base_layer")
                raise NoMlp(f"PEFT has changed {layer}: call kanify first, then PEFT")

    def _called(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        called = functools.reduce(getattr, str(node.target).split("."), self.module)
        return called if isinstance(called, nn.Module) else None  # a function that it holds

    def _is_linear(self, node: fx.Node) -> bool:
        module = self._called(node)
        return module is not None and linear_map(module) is not None

    def _is_norm(self, node: fx.Node) -> bool:
        return bool(_NORM.search(self._described(node)))

    def _keeps(self, node: fx.Node) -> bool:
        """Whether a step leaves values, or at least channels, to themselves."""
        module = self._called(node)
        if module is None:
            return node.target in _DROPOUTS or _function(node) in _CASTS
        return isinstance(module, IDENTITIES) or is_depthwise(module)

    def _moves(self, node: fx.Node) -> bool:
        """Whether a step moves channels to another dimension."""
        return self._described(node) in _MOVES

    def _map(self, call: fx.Node) -> LinearMap:
        mapped = linear_map(self.module.get_submodule(str(call.target)))
        assert mapped is not None
        return mapped

    def _name(self, call: fx.Node) -> str:
        return joined(self.path, str(call.target))

    def _described(self, node: fx.Node) -> str:
        """The name of the function that a step calls, or of the class of the module."""
        module = self._called(node)
        return _function(node) if module is None else type(module).__name__


def asks_size(node: fx.Node) -> bool:
    """Whether a step asks for the size or the dtype of a value."""
    return _function(node) in _SIZES


def is_on_path(node: fx.Node) -> bool:
    """Whether a step may stand on the path between linear maps beside the activation."""
    function = _function(node)
    known = function in _MOVES | _SPLITS or node.target in _DROPOUTS or bool(_NORM.search(function))
    return known or _is_slice(node)


def input_of(node: fx.Node) -> fx.Node:
    """The first argument of a step."""
    first = next(iter((*node.args, *node.kwargs.values())), None)
    if not isinstance(first, fx.Node):
        raise NoMlp("its input does not appear in the code")
    return first


def _is_slice(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem


def _function(node: fx.Node) -> str:
    """The name of the function or method that a step calls."""
    if node.op not in ("call_function", "call_method"):
        return str(node.target)
    target: Callable[..., object] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
