"""Linear maps, and the way to them from an activation in a graph, backward and forward.

A replaced activation leaves the function of the model as it was, whatever stands around it; what is
required here says which activations belong to MLPs.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.trace import joined

_MOVES = {
    "transpose", "permute", "flatten", "unflatten", "reshape", "view", "movedim", "swapaxes",
    "squeeze", "unsqueeze", "Permute",
}  # fmt: skip
"""The functions and modules that move channels to another dimension."""
_SPLITS = {"chunk", "split", "unbind", "tensor_split"}
_KEEPING = re.compile("norm|grn|pool|drop|pad|upsample|interpolate", re.IGNORECASE)
"""The names of functions and modules that leave the number and the dimension of channels."""
_ARITHMETIC = {"add", "iadd", "sub", "mul", "imul", "truediv"}
_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_NORMS = (
    nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.GroupNorm,
)  # fmt: skip
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
IDENTITIES = (nn.Identity, *DROPOUTS)
_CASTS = {"to", "float", "type_as", "contiguous", "clone", "dropout"}


def called(node: fx.Node) -> str:
    """Return the name of the function or method that a step calls."""
    return str(getattr(node.target, "__name__", node.target))


def asks_size(node: fx.Node) -> bool:
    """Return True if a step asks for the size or the dtype of a value."""
    return called(node) in ("size", "dim", "getattr")


def is_slice(node: fx.Node) -> bool:
    """Return True if a step takes a part of a value."""
    return node.op == "call_function" and node.target is operator.getitem


def input_of(node: fx.Node) -> fx.Node | None:
    """Return the first argument of a step, None if that is no value of the graph."""
    first = next(iter((*node.args, *node.kwargs.values())), None)
    return first if isinstance(first, fx.Node) else None


class NoMlp(Exception):
    """The reason why an activation is not in an MLP."""


@dataclass(frozen=True)
class Site:
    """An activation f in a model, by full names.

    It is of an MLP W_2 f(W_1 x + b_1) + b_2 or W_2 (f(W_1 x + b_1) * (V x + c)) + b_2, or of other
    layers.

    Args:
        activation: f, a module or a function held as an attribute.
        first: W_1, or another layer that has the channels of f.
        second: W_2; "" if f is in no MLP. W_1 and W_2 are the module of the experts where that has
            the weights of all experts.
        widths: (d_in, d_hidden, d_out) of an MLP. Else the numbers of channels of f, one for all
            calls with the same.
        function: the name of f.
        gated: there is V, a linear map of its own or a part of W_1.
        channel_dim: the dimension of the channels in the input of f.
    """

    activation: str
    first: str = ""
    second: str = ""
    widths: tuple[int, ...] = ()
    function: str = ""
    gated: bool = False
    channel_dim: int = -1

    @property
    def channels(self) -> tuple[int, ...]:
        """The numbers of channels of f."""
        return self.widths[1:2] if self.second else self.widths


class LinearMap(NamedTuple):
    """The widths of a linear map, and the dimension of its channels."""

    d_in: int
    d_out: int
    channel_dim: int


def linear_map(module: nn.Module) -> LinearMap | None:
    """Return the widths of a linear map, None for any other module.

    Linear maps are ``nn.Linear`` with its subclasses, other classes named ``Linear`` with a weight
    (d_out, d_in), as PyTorch Geometric's, transformers' ``Conv1D``, whose weight is (d_in, d_out),
    and convolutions of one position; lazy ones once they have weights; PEFT's layers by their base.
    """
    module = getattr(module, "base_layer", module)
    if any(map(is_lazy, module.parameters(recurse=False))):
        return None
    if isinstance(module, nn.Linear):
        return LinearMap(module.in_features, module.out_features, -1)
    if isinstance(module, _CONVOLUTIONS):
        is_single = {*module.kernel_size, *module.stride, module.groups} == {1}
        if module.transposed or not is_single:
            return None
        return LinearMap(module.in_channels, module.out_channels, 1)
    weight, name = getattr(module, "weight", None), type(module).__name__
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or name not in ("Conv1D", "Linear"):
        return None
    d_in, d_out = weight.shape if name == "Conv1D" else weight.shape[::-1]
    return LinearMap(d_in, d_out, -1)


def layer_of(module: nn.Module) -> LinearMap | None:
    """Return the channels of a linear map, a convolution or a norm of images, else None."""
    if isinstance(module, _NORMS):
        width: Any = getattr(module, "num_channels", None) or module.num_features
        return LinearMap(width, width, 1)
    if isinstance(module, _CONVOLUTIONS) and module.in_channels:  # else lazy
        return LinearMap(module.in_channels, module.out_channels, 1)
    return linear_map(module)


def expert_widths(module: nn.Module) -> set[tuple[int, int, int, bool]]:
    """(d_in, d_hidden, d_out, are they gated?) of experts, empty for any other module.

    Experts are a module with exactly two parameters of three dimensions: (E, k h, d) and (E, d, h),
    or both transposed; k is 2 if the experts are gated, and 1 if not. Without gates both orders
    fit, and d and h are unclear unless they are equal.
    """
    stacked = [p.shape[1:] for p in module.parameters(recurse=False) if p.ndim == 3]
    if len(stacked) != 2:
        return set()
    first, second = stacked
    found = set()
    for (out, d_in), (d_out, hidden) in ((first, second), (first[::-1], second[::-1])):
        if d_in == d_out and out in (hidden, 2 * hidden):
            found.add((d_in, hidden, d_out, out > hidden))
    return found


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

    def mlp(self, activation: str, call: fx.Node) -> Site | None:
        """Return the MLP around a call of an activation; None if the caller has a part of it.

        Raises:
            NoMlp: there is no MLP around it.
        """
        source = self._source(call)
        target = self._target(call, source)
        if source is None or target is None:
            return None
        second, last, gate, is_moved = target
        first, hidden = source.map, second.d_in
        if first.d_out != hidden and not (source.is_part and first.d_out > hidden):
            raise NoMlp(f"its {first.d_out} channels are not the {hidden} of the next linear map")
        if source.is_moved and is_moved:
            raise NoMlp("the dimension of its channels is unclear: they are moved before and after")
        return Site(
            activation,
            first=self._name(source.call),
            second=self._name(last),
            widths=(first.d_in, hidden, second.d_out),
            gated=gate is not None,
            channel_dim=(second if source.is_moved else first).channel_dim,
        )

    def channels(self, call: fx.Node) -> dict[tuple[int, int], str]:
        """Return the channels at a call: their number and dimension, with the layer's name.

        It looks at the nearest layers before and after the call, beyond steps that keep channels.
        More than one entry means that the channels are unclear.
        """
        found: dict[tuple[int, int], str] = {}
        for forward in (False, True):
            queue, seen = [call], {call}
            while queue:
                node = queue.pop()
                for each in node.users if forward else node.all_input_nodes:
                    # The code of a norm with an activation has no layer before the activation.
                    is_input = each.op == "placeholder"
                    module = self.module if is_input else self._called(each)
                    layer = None if module is None else layer_of(module)
                    if layer:
                        width = layer.d_in if forward else layer.d_out
                        found[width, layer.channel_dim] = (
                            self.path if is_input else self._name(each)
                        )
                    elif each not in seen and self._keeps_channels(each):
                        queue.append(each)
                        seen.add(each)
        return found

    def _source(self, user: fx.Node, value: fx.Node | None = None) -> _Source | None:
        """Return the origin of a value, by default the input of its user; None if an argument.

        Args:
            user: the step that uses it.
            value: the value.
        """
        is_part = is_moved = False
        value = value or input_of(user)
        while value is not None and value.op != "placeholder":
            users = [each for each in value.users if not asks_size(each)]
            if not all(map(is_slice, users)) and users != [user]:
                raise NoMlp(f"its input, from {self._described(value)}, is also used elsewhere")
            mapped = self._linear(value)
            if mapped:
                return _Source(mapped, value, is_part, is_moved)
            if is_slice(value):
                is_part = True
            elif self._described(value) in _MOVES:
                is_moved = True
            elif not self._keeps(value) and called(value) not in _SPLITS:
                raise NoMlp(f"its input comes from {self._described(value)}, not a linear map")
            user, value = value, input_of(value)
        if value is None:
            raise NoMlp("its input does not appear in the code")
        return None

    def _target(
        self, value: fx.Node, source: _Source | None
    ) -> tuple[LinearMap, fx.Node, fx.Node | None, bool] | None:
        """Return the linear map that a value goes to, None if it is returned.

        Returns:
            Its widths, its call, the gate's on the way there, and True if channels are moved to
            another dimension.
        """
        gate, is_moved = None, False
        while True:
            users = [user for user in value.users if not asks_size(user)]
            if len(users) != 1:
                raise NoMlp("its output does not go to a linear map alone")
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
            elif not self._keeps(user) and not _KEEPING.search(self._described(user)):
                raise NoMlp(f"its output goes to {self._described(user)}, not a linear map")
            value = user

    def _gate(self, product: fx.Node, value: fx.Node, source: _Source | None) -> fx.Node:
        """Return the call of the linear map V in f(W x) * V x."""
        others = [node for node in product.all_input_nodes if node is not value]
        try:
            other = self._source(product, others[0]) if others else None
        except NoMlp:
            other = None
        if source and other and input_of(other.call) is input_of(source.call):
            return other.call
        raise NoMlp("it is multiplied by something else than a linear map of the same input")

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
            return called(node) in _CASTS
        if isinstance(module, _CONVOLUTIONS):  # of each channel by itself
            return module.groups == module.in_channels == module.out_channels > 1
        return isinstance(module, IDENTITIES)

    def _keeps_channels(self, node: fx.Node) -> bool:
        """Return True if a step leaves the number and the dimension of the channels."""
        is_named = called(node) in _ARITHMETIC or _KEEPING.search(self._described(node))
        return bool(is_named) or self._keeps(node)

    def _name(self, call: fx.Node) -> str:
        return joined(self.path, str(call.target))

    def _described(self, node: fx.Node) -> str:
        """Return the name of the function that a step calls, or of the class of the module."""
        module = self._called(node)
        return called(node) if module is None else type(module).__name__
