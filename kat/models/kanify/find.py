"""The activations of a model: those of MLPs (linear map, activation, linear map), and all others.

They are found by what the code of the model does. Names of models, classes and attributes do not
matter, nor does the order in which modules were registered. No sample input is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any

from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.called import called_functions, lines_instead
from kat.models.kanify.fit import LINEAR, Activation, activation_function, kind_of
from kat.models.kanify.trace import (
    LINE,
    Tracer,
    held_functions,
    joined,
    named_children,
)
from kat.models.kanify.walk import (
    IDENTITIES,
    NoMlp,
    Site,
    Walk,
    expert_widths,
    linear_map,
)
from kat.nn import rationals
from kat.text import listing

_LISTS = (nn.ModuleList, nn.ModuleDict)
_OF_SEVERAL = re.compile("(softmax|softmin|glu|maxout)$", re.IGNORECASE)
"""The names of activations that are no function of one value."""
_HEAD = "it is no MLP of a block, but changes the width outside, as a head; only= can name it"
UNCLEAR = "its channels are unclear from the code, and no batches in calibration= show them"


@dataclass(frozen=True)
class Found:
    """The result of :func:`find`.

    Args:
        sites: the activations that are functions, by name, in the order of the modules; without
            widths where the channels are unclear.
        functions: of each, by its name.
        heads: the names of MLPs that are no MLP of a block.
        skipped: why activations are in no MLP, or cannot be replaced at all, by their names.
    """

    sites: dict[str, Site] = field(default_factory=dict)
    functions: dict[str, Activation] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def mlps(self) -> dict[str, Site]:
        """The activations of MLPs."""
        return {name: site for name, site in self.sites.items() if site.second}


def find(model: nn.Module) -> Found:
    """Find the activations of a model, without changing it.

    Attributes that are activations are candidates. The activations that code calls are only noted.
    """
    search = _Search(model)
    found = search.found
    for owner, module in model.named_modules():
        if any(module.children()) and not _is_step(module):
            search.attributes(owner, module)
            graph, _ = search.trace(owner)
            numbers = count(1)
            for chain in called_functions(graph):
                name = next(n for n in map("act_{}".format, numbers) if not hasattr(module, n))
                reason = lines_instead(chain, name, type(module).__name__)
                found.skipped[joined(owner, name)] = reason
        elif expert_widths(module):
            reason = f"the code of {type(module).__name__} computes it; hold it as an attribute"
            found.skipped[joined(owner, "act")] = reason
    found.skipped.update(dict.fromkeys(rationals(model), "it is a rational already"))
    outside = [name for name in found.mlps if not _is_numbered(name)]
    if len(outside) < len(found.mlps):
        for name in outside:
            d_in, _, d_out = found.sites[name].widths
            if d_in != d_out:
                found.heads.append(name)
                found.skipped[name] = _HEAD
    return found


class _Search:
    """The search for what may be activations, and for the layers around them.

    If the input of an attribute comes from the caller of its owner, or its output is returned, as
    in BERT, the code of the module that holds the owner is followed too. It is followed no farther:
    modules farther apart are not one MLP.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found = Found()
        self.trace = cache(self._trace)

    def attributes(self, owner: str, module: nn.Module) -> None:
        """Look at the children and the held functions of a module that may be activations."""
        candidates: dict[str, Any] = {**named_children(module), **held_functions(module)}
        for attribute, activation in candidates.items():
            if isinstance(activation, nn.Module) and not _may_act(activation):
                continue
            name, function = joined(owner, attribute), activation_function(activation)
            if function and function.name == LINEAR:
                continue
            try:
                site, reason = self._mlp(owner, name), ""
            except NoMlp as error:
                site, reason = self._outside(owner, name), str(error)
            if function:
                self.found.sites[name] = replace(site, function=function.name)
                self.found.functions[name] = function
            elif not reason or _OF_SEVERAL.search(kind_of(activation)):
                reason = f"{kind_of(activation)} is not elementwise"
            else:
                continue
            if reason:
                self.found.skipped[name] = reason

    def _mlp(self, owner: str, name: str) -> Site:
        """Return the MLP around an attribute.

        Raises:
            NoMlp: there is none, and why.
        """
        experts = expert_widths(self.model.get_submodule(owner))
        if len(experts) > 1:
            raise NoMlp("the weights of its experts do not show which of two widths is the hidden")
        if experts:
            *widths, gated = experts.pop()
            return Site(name, owner, owner, tuple(widths), gated=gated)
        lines: list[str] = []
        stopped: list[str] = []
        for path, calls, stops in self._around(owner, name):
            lines += [call.meta[LINE] for call in calls]
            stopped += stops
            walk = Walk(self.model, path)
            mlps = {walk.mlp(name, call) for call in calls}
            if len(mlps) > 1:
                raise NoMlp(f"it is called more than once{_at(lines)}")
            for mlp in filter(None, mlps):
                return mlp
        if lines:
            raise NoMlp(
                f"the code that calls it{_at(lines)} has no linear map on either side of it"
            )
        where = _at(stopped) and f": it cannot follow the code{_at(stopped)}"
        raise NoMlp(f"torch.fx sees no call of it{where}")

    def _outside(self, owner: str, name: str) -> Site:
        """Return the layers around an attribute outside MLPs; no widths if they are unclear."""
        for path, calls, _ in self._around(owner, name):
            walk = Walk(self.model, path)
            found: dict[tuple[int, int], str] = {}
            around = [walk.channels(call) for call in calls]
            for layers in around:
                found |= layers
            dims = {dim for _, dim in found}
            if len(dims) == 1 and all(len(layers) == 1 for layers in around):
                widths = tuple(sorted(width for width, _ in found))
                return Site(name, next(iter(found.values())), "", widths, channel_dim=dims.pop())
        return Site(name, owner)

    def _around(self, owner: str, name: str) -> list[tuple[str, list[fx.Node], list[str]]]:
        """Return the modules whose code may call an attribute, the calls, and where traces stop.

        They are its owner and the module that holds the owner, except lists and dictionaries.
        """
        parts = owner.split(".") if owner else []
        paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
        paths = [path for path in paths if not isinstance(self.model.get_submodule(path), _LISTS)]
        around = []
        for path in paths[:2]:
            graph, stops = self.trace(path)
            target = name[len(path) :].strip(".")
            calls = [n for n in graph.nodes if n.op == "call_module" and n.target == target]
            lines = [s for at, s in stops.items() if not at or target.startswith(f"{at}.")]
            around.append((path, calls, lines))
        return around

    def _trace(self, path: str) -> tuple[fx.Graph, dict[str, str]]:
        tracer = Tracer(_is_step)
        return tracer.graph_of(self.model.get_submodule(path)), tracer.stops


def _may_act(module: nn.Module) -> bool:
    """Return True if a module has no parameters but single numbers, as StarReLU, or is a PReLU."""
    containers = (nn.Sequential, *_LISTS, *IDENTITIES)
    if any(isinstance(part, containers) for part in module.modules()):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    single = all(not is_lazy(tensor) and tensor.numel() == 1 for tensor in tensors)
    return single or isinstance(module, nn.PReLU)


def _is_step(module: nn.Module) -> bool:
    """Return True if the code of a module with children is not followed."""
    return linear_map(module) is not None or _may_act(module)


def _at(lines: list[str]) -> str:
    """Return the lines that are known, as " at file.py:12, file.py:14"."""
    known = listing(dict.fromkeys(filter(None, lines)))
    return f" at {known}" if known else ""


def _is_numbered(name: str) -> bool:
    """Return True if an activation is in a numbered block."""
    return any(part.isdecimal() for part in name.split("."))
