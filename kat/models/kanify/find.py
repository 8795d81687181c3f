"""The activations of a model: those of MLPs (linear map, activation, linear map), and all others.

They are found by what the code of the model does. Names of models, classes and attributes do not
matter, nor does the order in which modules were registered. No sample input is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, count
from typing import Any

from torch import nn
from torch.nn import functional

from kat.models.kanify.fit import LINEAR, Activation, activation_function, kind_of
from kat.models.kanify.layers import (
    LISTS,
    around,
    expert_widths,
    has_code,
    held_functions,
    joined,
    may_act,
    named_children,
)
from kat.models.kanify.trace import Code, Step, code_of
from kat.models.kanify.walk import NoMlp, Site, channels, mlp
from kat.nn import rationals
from kat.text import listing

_OF_SEVERAL = re.compile("(softmax|softmin|glu|maxout)$", re.IGNORECASE)
"""The names of activations that are no function of one value."""
_FIRST = {
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "relu",
    "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "tanh",
}  # fmt: skip
_NEXT = {*_FIRST, "square", "pow"}
"""The calls that may start an activation, and the calls that may follow: relu(x), then square."""
_HEAD = "it is no MLP of a block, but changes the width outside, as a head; only= can name it"
UNCLEAR = "its channels are unclear from the code, and no batches in calibration= show them"


@dataclass(frozen=True)
class Found:
    """The result of :func:`find`.

    Args:
        sites: the activations that are functions, by name, in the order of the modules; without
            widths where the channels are unclear.
        functions: of each, by its name.
        skipped: why activations are in no MLP or in one that is no MLP of a block, or cannot be
            replaced at all, by their names.
    """

    sites: dict[str, Site] = field(default_factory=dict)
    functions: dict[str, Activation] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def mlps(self) -> dict[str, Site]:
        """The activations of MLPs."""
        return {name: site for name, site in self.sites.items() if site.second}


def find(model: nn.Module) -> Found:
    """Find the activations of a model, without changing it.

    Attributes that are activations are candidates. The activations that code calls are only noted.
    """
    found = Found()
    code = cache(partial(code_of, model))
    for owner, module in model.named_modules():
        if has_code(module):
            for attribute, activation in _candidates(module).items():
                name = joined(owner, attribute)
                codes = [code(path) for path in _holders(model, name)]
                _judge(found, name, activation, module, codes)
            found.skipped.update(_called(owner, module, code(owner).steps[owner]))
        elif expert_widths(module):
            reason = f"the code of {type(module).__name__} computes it; hold it as an attribute"
            found.skipped[joined(owner, "act")] = reason
    found.skipped.update(dict.fromkeys(rationals(model), "it is a rational already"))
    outside = [name for name in found.mlps if not any(map(str.isdecimal, name.split(".")))]
    if len(outside) < len(found.mlps):
        for name in outside:
            d_in, _, d_out = found.sites[name].widths
            if d_in != d_out:
                found.skipped[name] = _HEAD
    return found


def _candidates(module: nn.Module) -> dict[str, Any]:
    """Return the children and the held functions of a module that may be activations."""
    children = named_children(module).items()
    return {**{name: child for name, child in children if may_act(child)}, **held_functions(module)}


def _holders(model: nn.Module, name: str) -> list[str]:
    """Return the modules whose code may call an attribute: its owner, and the owner's holder.

    As in BERT, an owner may get the input of an activation from its caller, or return its output.
    It is followed no farther: modules farther apart are not one MLP. Lists and dictionaries have no
    code.
    """
    paths = around(name)
    return [path for path in paths if not isinstance(model.get_submodule(path), LISTS)][:2]


def _judge(found: Found, name: str, activation: Any, owner: nn.Module, codes: list[Code]) -> None:
    """Note the site and the function of an activation, or the reason why it has none."""
    function, kind = activation_function(activation), kind_of(activation)
    if function and function.name == LINEAR:
        return
    try:
        site, reason = _mlp(name, owner, codes), ""
    except NoMlp as error:
        site, reason = _outside(name, codes), str(error)
    calls = [*chain.from_iterable(code.steps[name] for code in codes)]
    if function and calls and not any(call.node.users for call in calls):
        reason = "its output is not used: it changes its input in place"
    elif function:
        found.sites[name] = replace(site, function=function.name)
        found.functions[name] = function
    elif not reason or _OF_SEVERAL.search(kind):
        reason = f"{kind} is not elementwise"
    else:
        return
    if reason:
        found.skipped[name] = reason


def _mlp(name: str, owner: nn.Module, codes: list[Code]) -> Site:
    """Return the MLP around an activation.

    Raises:
        NoMlp: there is none, and why.
    """
    experts, paths = expert_widths(owner), around(name)
    if len(experts) > 1:
        raise NoMlp("the weights of its experts do not show which of two widths is the hidden")
    for *widths, gated in experts:
        return Site(name, paths[0], paths[0], tuple(widths), gated=gated)
    lines: list[str] = []
    stops: list[str] = []
    for code in codes:
        calls = code.steps[name]
        lines += [call.line for call in calls]
        stops += [line for path, line in code.stops.items() if path in paths]
        mlps = {mlp(name, call) for call in calls}
        if len(mlps) > 1:
            raise NoMlp(f"it is called more than once{_at(lines)}")
        for site in filter(None, mlps):
            return site
    if lines:
        raise NoMlp(f"the code that calls it{_at(lines)} has no linear map on either side of it")
    where = _at(stops) and f": it cannot follow the code{_at(stops)}"
    raise NoMlp(f"torch.fx sees no call of it{where}")


def _outside(name: str, codes: list[Code]) -> Site:
    """Return the layers around an activation outside MLPs; no widths if they are unclear."""
    for code in codes:
        found: dict[tuple[int, int], str] = {}
        layers = [channels(call) for call in code.steps[name]]
        for each in layers:
            found |= each
        dims = {dim for _, dim in found}
        if len(dims) == 1 and all(len(each) == 1 for each in layers):
            widths = tuple(sorted(width for width, _ in found))
            return Site(name, next(iter(found.values())), "", widths, channel_dim=dims.pop())
    return Site(name, around(name)[0])


def _at(lines: list[str]) -> str:
    """Return the lines that are known, as " at file.py:12, file.py:14"."""
    known = listing(dict.fromkeys(filter(None, lines)))
    return f" at {known}" if known else ""


def _called(owner: str, module: nn.Module, steps: list[Step]) -> dict[str, str]:
    """Return what to write in the place of activations that a module's code calls.

    They have names that are free. The calls on the result of a call belong to it.
    """
    chains: list[list[Step]] = []
    for step in steps:
        follows = chains and step.node.args[:1] == (chains[-1][-1].node,)
        if follows and step.kind in _NEXT:
            chains[-1].append(step)
        elif step.kind in _FIRST:
            chains.append([step])
    names = (name for name in map("act_{}".format, count(1)) if not hasattr(module, name))
    return {
        joined(owner, name): _instead(chain, name, module)
        for chain, name in zip(chains, names, strict=False)
    }


def _instead(chain: list[Step], attribute: str, owner: nn.Module) -> str:
    """Return the two lines with which a module holds a function that its code calls."""
    code = "x"
    for step in chain:
        node, name = step.node, step.kind
        others = [repr(argument) for argument in node.args[1:]]
        for key, value in node.kwargs.items():
            if key not in ("input", "inplace"):
                others.append(f"{key}={value!r}")
        if node.op == "call_method" or not hasattr(functional, name):
            code = f"{code}.{name}({', '.join(others)})"
        else:
            code = f"F.{name}({', '.join([code, *others])})"
    value = code.removesuffix("(x)")
    if value == code:
        value = f"lambda x: {code}"
    return (
        "code calls it, and kanify replaces modules and functions held as attributes; write\n"
        f"    self.{attribute} = {value}  # in __init__ of {type(owner).__name__}\n"
        f"    self.{attribute}(x)  # in place of {code} at {chain[-1].line};"
        " x stands for the argument there"
    )
