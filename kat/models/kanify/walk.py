"""The way from an activation through steps of code, back and on, to the layers around it.

A replaced activation leaves the function of the model as it was, whatever stands around it; what is
required here says which activations belong to MLPs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from kat.models.kanify.layers import LinearMap, layer_of, leaves_channels, linear_map
from kat.models.kanify.trace import Step

_MOVES = {
    "transpose", "permute", "flatten", "unflatten", "reshape", "view", "movedim", "swapaxes",
    "squeeze", "unsqueeze", "Permute",
}  # fmt: skip
"""The functions and modules that move channels to another dimension."""
_SPLITS = {"chunk", "split", "unbind", "tensor_split"}
_KEEPING = re.compile("norm|grn|pool|drop|pad|upsample|interpolate", re.IGNORECASE)
"""The names of functions and modules that leave the number and the dimension of channels."""
_ARITHMETIC = {"add", "iadd", "sub", "mul", "imul", "truediv"}
_CASTS = {"to", "float", "type_as", "contiguous", "clone", "dropout"}


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


class _End(NamedTuple):
    """A linear map at the end of the way.

    Args:
        map: its widths.
        call: its call.
        is_moved: the channels are moved to another dimension on the way.
        is_part: before an activation: the value is a part of the output of the linear map.
        is_gated: after an activation: the value is multiplied by V x on the way.
    """

    map: LinearMap
    call: Step
    is_moved: bool
    is_part: bool = False
    is_gated: bool = False


def mlp(activation: str, call: Step) -> Site | None:
    """Return the MLP around a call of an activation; None if the caller has a part of it.

    Raises:
        NoMlp: there is no MLP around it.
    """
    source = _source(call, call.inputs)
    target = _target(call, source)
    if source is None or target is None:
        return None
    first, second = source.map, target.map
    hidden = second.d_in
    if first.d_out != hidden and not (source.is_part and first.d_out > hidden):
        raise NoMlp(f"its {first.d_out} channels are not the {hidden} of the next linear map")
    if source.is_moved and target.is_moved:
        raise NoMlp("the dimension of its channels is unclear: they are moved before and after")
    return Site(
        activation,
        first=source.call.name,
        second=target.call.name,
        widths=(first.d_in, hidden, second.d_out),
        gated=target.is_gated,
        channel_dim=(second if source.is_moved else first).channel_dim,
    )


def channels(call: Step) -> dict[tuple[int, int], str]:
    """Return the channels at a call: their number and dimension, with the layer's name.

    It looks at the nearest layers before and after the call, beyond steps that keep channels. The
    layer before may be the module itself, as of a norm whose code has an activation. More than one
    entry means that the channels are unclear.
    """
    found: dict[tuple[int, int], str] = {}
    for forward in (False, True):
        queue, seen = [call], {call}
        while queue:
            step = queue.pop()
            for each in step.users if forward else step.inputs:
                layer = layer_of(each.module)
                if layer:
                    width = layer.d_in if forward else layer.d_out
                    found[width, layer.channel_dim] = each.name
                elif each not in seen and _keeps_channels(each):
                    queue.append(each)
                    seen.add(each)
    return found


def _source(user: Step, inputs: list[Step]) -> _End | None:
    """Return the origin of the first of the inputs of a step; None if that is an argument."""
    is_part = is_moved = False
    while inputs and inputs[0].node.op != "placeholder":
        value = inputs[0]
        is_cut = {each.kind for each in value.users} == {"getitem"}
        if not is_cut and value.users != [user]:
            raise NoMlp(f"its input, from {value.kind}, is also used elsewhere")
        linear = linear_map(value.module)
        if linear:
            return _End(linear, value, is_moved, is_part=is_part)
        if value.kind == "getitem":
            is_part = True
        elif value.kind in _MOVES:
            is_moved = True
        elif not _keeps(value) and value.kind not in _SPLITS:
            raise NoMlp(f"its input comes from {value.kind}, not a linear map")
        user, inputs = value, value.inputs
    if not inputs:
        raise NoMlp("its input does not appear in the code")
    return None


def _target(value: Step, source: _End | None) -> _End | None:
    """Return the linear map that a value goes to, None if it is returned."""
    is_gated = is_moved = False
    while True:
        if len(value.users) != 1:
            raise NoMlp("its output does not go to a linear map alone")
        (user,) = value.users
        if user.node.op == "output":
            return None
        linear = linear_map(user.module)
        if linear and user.inputs[0] is value:
            return _End(linear, user, is_moved, is_gated=is_gated)
        if user.kind == "mul":
            _check_gate(user, value, source)
            is_gated = True
        elif user.kind in _MOVES:
            is_moved = True
        elif not _keeps(user) and not _KEEPING.search(user.kind):
            raise NoMlp(f"its output goes to {user.kind}, not a linear map")
        value = user


def _check_gate(product: Step, value: Step, source: _End | None) -> None:
    """Check that a product is f(W x) * V x."""
    try:
        gate = _source(product, [each for each in product.inputs if each is not value])
    except NoMlp:
        gate = None
    if not source or not gate or gate.call.inputs[:1] != source.call.inputs[:1]:
        raise NoMlp("it is multiplied by something else than a linear map of the same input")


def _keeps(step: Step) -> bool:
    """Return True if a step leaves values, or at least channels, to themselves."""
    return leaves_channels(step.module) or step.kind in _CASTS


def _keeps_channels(step: Step) -> bool:
    """Return True if a step leaves the number and the dimension of the channels."""
    return step.kind in _ARITHMETIC or bool(_KEEPING.search(step.kind)) or _keeps(step)
