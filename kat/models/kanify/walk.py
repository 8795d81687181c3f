"""Linear maps, and the way to them from an activation in a graph, backward and forward.

A replaced activation leaves the function of the model as it was, whatever stands around it; what is
required here says which activations belong to MLPs.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.trace import THROUGH, joined

_MOVES = {
    "transpose", "permute", "flatten", "unflatten", "reshape", "view", "movedim", "swapaxes",
    "squeeze", "unsqueeze", "Permute",
}  # fmt: skip
"""The functions and modules that move channels to another dimension."""
_SPLITS = {"chunk", "split", "unbind", "tensor_split"}
_DROPOUT_FUNCTIONS = {torch.nn.functional.dropout, torch.dropout}
_NORM = re.compile(r"(norm|grn)([1-3]d)?$", re.IGNORECASE)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
IDENTITIES = (nn.Identity, *DROPOUTS)
_CASTS = {"to", "float", "type_as", "contiguous", "clone"}


def called(node: fx.Node) -> str:
    """The name of the function or method that a step calls."""
    return str(getattr(node.target, "__name__", node.target))


def asks_size(node: fx.Node) -> bool:
    """Return True if a step asks for the size or the dtype of a value."""
    return called(node) in ("size", "dim", "getattr")


def is_slice(node: fx.Node) -> bool:
    """Return True if a step takes a part of a value."""
    return node.op == "call_function" and node.target is operator.getitem


def input_of(node: fx.Node) -> fx.Node | None:
    """The first argument of a step, None if that is no value of the graph."""
    first = next(iter((*node.args, *node.kwargs.values())), None)
    return first if isinstance(first, fx.Node) else None


def is_on_path(node: fx.Node) -> bool:
    """Return True if a step may stand between linear maps beside the activation."""
    name = called(node)
    moves = name in _MOVES | _SPLITS or node.target in _DROPOUT_FUNCTIONS or is_slice(node)
    return moves or bool(_NORM.search(name))


class NoMlp(Exception):
    """The reason why an activation is not in an MLP."""


@dataclass(frozen=True)
class Mlp:
    """W_2 f(W_1 x + b_1) + b_2 or W_2 (f(W_1 x + b_1) * (V x + c)) + b_2 in a model, by full names.

    Args:
        activation: f, a module or a function held as an attribute; or, if the code calls a
            function, the name that a module in its place gets.
        first, second: the linear maps before and after it. Both are the module of the experts where
            that has the weights of all experts.
        widths: (d_in, d_hidden, d_out).
        function: the name of f.
        gated: there is V, a linear map of its own or a part of ``first``.
        channel_dim: the dimension of the channels in the input of f.
        call: the number of the call in the code of the module around ``activation``; None if f is
            an attribute.
        code: the name of the function of that module whose code has the call.
        followed: functions that modules hold and that call parts of the MLP, as a lambda does.
    """

    activation: str
    first: str
    second: str
    widths: tuple[int, int, int]
    function: str
    gated: bool = False
    channel_dim: int = -1
    call: int | None = None
    code: str = "forward"
    followed: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The name of the module that has the activation."""
        return self.activation.rpartition(".")[0]

    @property
    def attribute(self) -> str:
        """The name of the activation in its owner."""
        return self.activation.rpartition(".")[2]


class LinearMap(NamedTuple):
    """The widths of a linear map, and the dimension of its channels."""

    d_in: int
    d_out: int
    channel_dim: int


def linear_map(module: nn.Module) -> LinearMap | None:
    """The widths of a linear map, None for any other module.

    Linear maps are ``nn.Linear`` with its subclasses, other classes named ``Linear`` with a weight
    (d_out, d_in), as PyTorch Geometric's, transformers' ``Conv1D``, whose weight is (d_in, d_out),
    and convolutions of one position; lazy ones once they have weights.
    """
    if any(map(is_lazy, module.parameters(recurse=False))):
        return None
    if isinstance(module, nn.Linear):
        return LinearMap(module.in_features, module.out_features, -1)
    if isinstance(module, CONVOLUTIONS):
        ones = (1,) * len(module.kernel_size)
        if (module.kernel_size, module.stride, module.groups) != (ones, ones, 1):
            return None
        return LinearMap(module.in_channels, module.out_channels, -1 - len(ones))
    weight, name = getattr(module, "weight", None), type(module).__name__
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or name not in ("Conv1D", "Linear"):
        return None
    d_in, d_out = weight.shape if name == "Conv1D" else weight.shape[::-1]
    return LinearMap(d_in, d_out, -1)


def expert_widths(module: nn.Module) -> tuple[int, int, int, bool] | None:
    """(d_in, d_hidden, d_out, are they gated?) of experts, None for any other module.

    Experts are a module with exactly two parameters of three dimensions: (E, k h, d) and (E, d, h),
    or both transposed; k is 2 if the experts are gated, and 1 if not.
    """
    stacked = [p.shape for p in module.parameters(recurse=False) if p.ndim == 3]
    if len(stacked) != 2 or stacked[0][0] != stacked[1][0]:
        return None
    for (out, d_in), (d_out, hidden) in (
        (stacked[0][1:], stacked[1][1:]),
        (stacked[0][:0:-1], stacked[1][:0:-1]),  # transposed
    ):
        if d_in == d_out and out in (hidden, 2 * hidden):
            return d_in, hidden, d_out, out == 2 * hidden
    return None


class _Source(NamedTuple):
    """The linear map that a value comes from.

    Args:
        map: its widths.
        call: its call.
        is_part: the value is a part of its output.
        is_moved: the channels are moved to another dimension.
    """

    map: LinearMap
    call: fx.Node
    is_part: bool
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
        self, activation: str, before: fx.Node | None, after: fx.Node, inside: list[fx.Node]
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
        second, call, gate, is_moved = target
        first, hidden = source.map, second.d_in
        if first.d_out != hidden and not (source.is_part and first.d_out > hidden):
            raise NoMlp(f"its {first.d_out} channels are not the {hidden} of the next linear map")
        if source.is_moved and is_moved:
            raise NoMlp("the dimension of its channels is unclear: they are moved before and after")
        steps = (source.call, *inside, gate or call, call)
        followed = dict.fromkeys(name for node in steps for name in node.meta.get(THROUGH, ()))
        return Mlp(
            activation,
            self._name(source.call),
            self._name(call),
            (first.d_in, hidden, second.d_out),
            "",
            gated=gate is not None,
            channel_dim=(second if source.is_moved else first).channel_dim,
            followed=tuple(joined(self.path, name) for name in followed),
        )

    def _source(self, value: fx.Node | None, inside: list[fx.Node]) -> _Source | None:
        """The origin of a value; None if the caller provides it.

        Args:
            value: the value.
            inside: the steps that use it.
        """
        is_part = is_moved = False
        while value is not None and value.op != "placeholder":
            users = [user for user in value.users if not asks_size(user)]
            sliced = all(map(is_slice, users))
            if not sliced and not set(inside).issuperset(users):
                raise NoMlp(f"its input, from {self._described(value)}, is also used elsewhere")
            mapped = self._linear(value)
            if mapped:
                return _Source(mapped, value, is_part, is_moved)
            if is_slice(value):
                is_part = True
            elif self._described(value) in _MOVES:
                is_moved = True
            elif not self._keeps(value) and called(value) not in _SPLITS:
                reason = f"its input comes from {self._described(value)}, not a linear map"
                raise self._no_mlp(reason, value.all_input_nodes)
            inside, value = [value], input_of(value)
        if value is None:
            raise NoMlp("its input does not appear in the code")
        return None

    def _target(
        self, value: fx.Node, source: _Source | None
    ) -> tuple[LinearMap, fx.Node, fx.Node | None, bool] | None:
        """The linear map that a value goes to, None if it is returned.

        Returns:
            Its widths, its call, the gate's on the way there, and True if channels are moved to
            another dimension.
        """
        gate, is_moved = None, False
        while True:
            users = [user for user in value.users if not asks_size(user)]
            if len(users) != 1:
                raise self._no_mlp("its output does not go to a linear map alone", users)
            user = users[0]
            if user.op == "output":
                return None
            mapped = self._linear(user)
            if mapped and input_of(user) is value:
                return mapped, user, gate, is_moved
            if called(user) == "mul":
                gate = self._gate(user, value, source)
            elif self._described(user) in _MOVES:
                is_moved = True
            elif not self._keeps(user) and not _NORM.search(self._described(user)):
                raise NoMlp(f"its output goes to {self._described(user)}, not a linear map")
            value = user

    def _gate(self, product: fx.Node, value: fx.Node, source: _Source | None) -> fx.Node:
        """The call of the linear map V in f(W x) * V x."""
        others = [node for node in product.all_input_nodes if node is not value]
        try:
            other = self._source(others[0], [product]) if others else None
        except NoMlp:
            other = None
        if source and other:
            packed = other.call is source.call
            if packed or input_of(other.call) is input_of(source.call):
                return other.call
        raise NoMlp("it is multiplied by something else than a linear map of the same input")

    def _no_mlp(self, reason: str, nodes: Iterable[fx.Node]) -> NoMlp:
        for layer, _, name in (self._name(node).rpartition(".") for node in nodes):
            if name == "base_layer":
                reason = f"PEFT has changed {layer}: call kanify first, then PEFT"
        return NoMlp(reason)

    def _called(self, node: fx.Node) -> nn.Module | None:
        if node.op != "call_module":
            return None
        step = operator.attrgetter(str(node.target))(self.module)
        return step if isinstance(step, nn.Module) else None  # a function that it holds

    def _linear(self, node: fx.Node) -> LinearMap | None:
        module = self._called(node)
        return None if module is None else linear_map(module)

    def _keeps(self, node: fx.Node) -> bool:
        """Return True if a step leaves values, or at least channels, to themselves."""
        module = self._called(node)
        if module is None:
            return node.target in _DROPOUT_FUNCTIONS or called(node) in _CASTS
        if isinstance(module, CONVOLUTIONS):  # of each channel by itself
            return module.groups == module.in_channels == module.out_channels > 1
        return isinstance(module, IDENTITIES)

    def _name(self, call: fx.Node) -> str:
        return joined(self.path, str(call.target))

    def _described(self, node: fx.Node) -> str:
        """The name of the function that a step calls, or of the class of the module."""
        module = self._called(node)
        return called(node) if module is None else type(module).__name__
