"""The MLPs of a model: a linear map, an element-wise activation, a linear map, in this order.

They are found by what the code of the model does. Names of models, classes and attributes do not
matter, nor does the order in which modules were registered. No sample input is needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.fit import LINEAR, Activation, activation_function, kind_of
from kat.models.kanify.regenerate import Code, codes_of
from kat.models.kanify.trace import LINE, NotWhole, Tracer, held_functions, joined, named_children
from kat.models.kanify.walk import (
    IDENTITIES,
    Mlp,
    NoMlp,
    Walk,
    expert_widths,
    input_of,
    linear_map,
)
from kat.nn.functions import FUNCTIONS
from kat.text import listing

_LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Found:
    """The result of :func:`find`.

    Args:
        mlps: in the order of the modules.
        functions: of each, by the name of the activation.
        heads: the names of those that are no MLP of a block.
        skipped: activations that are in no MLP, and why.
    """

    mlps: list[Mlp] = field(default_factory=list)
    functions: dict[str, Activation] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def find(model: nn.Module) -> Found:
    """Find the MLPs of a model, without changing it."""
    search = _Search(model)
    for owner, module in model.named_modules():
        if any(module.children()) and not _is_step(module):
            search.attributes(owner, module)
            search.calls(owner, module)
    found = search.found
    found.heads.extend(mlp.activation for mlp in found.mlps if _is_head(mlp, found.mlps))
    return found


class _Search:
    """The search for MLPs around what may be activations.

    If the input of an attribute comes from the caller of its owner, or its output is returned, as
    in BERT, the code of the module that holds the owner is followed too. It is followed no farther:
    modules farther apart are not one MLP.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found = Found()
        self.codes = cache(partial(codes_of, model))
        self.trace = cache(self._trace)

    def attributes(self, owner: str, module: nn.Module) -> None:
        """Look at the children and the held functions of a module that may be activations."""
        held = held_functions(module).items()
        candidates: dict[str, Any] = {
            **{name: child for name, child in named_children(module).items() if _may_act(child)},
            **{name: function for name, function in held if name not in self.codes(owner)},
        }
        for attribute, activation in candidates.items():
            name = joined(owner, attribute)
            self._consider(name, activation, partial(self._around_attribute, owner, name))

    def calls(self, owner: str, module: nn.Module) -> None:
        """Look at the calls in the code of a module that may be activations.

        Each gets the first name that neither the module nor a call before it has.
        """
        taken = set(dir(module))
        for code_name, code in self.codes(owner).items():
            for number, region in enumerate(code.regions):
                names = (f"act_{n}" if n > 1 else "act" for n in itertools.count(1))
                name = joined(owner, next(n for n in names if n not in taken))
                around = partial(self._around_call, owner, name, code_name, number)
                if self._consider(name, region.module(module), around, code):
                    taken.add(name.rpartition(".")[2])

    def _consider(
        self,
        name: str,
        activation: Callable[..., Any],
        around: Callable[[], Mlp | None],
        code: Code | None = None,
    ) -> bool:
        """Note the MLP around a candidate, or why there is none; True if there is a note."""
        found, function = self.found, activation_function(activation)
        is_composed = isinstance(activation, nn.Module) and any(activation.children())
        if (function and function.name == LINEAR) or (is_composed and not function):
            return False
        try:
            mlp = around()
            if mlp and not function:
                kind = kind_of(activation)
                found.skipped[name] = f"{kind} is not one function of every value by itself"
            elif mlp and function:
                found.mlps.append(replace(mlp, function=function.name))
                found.functions[name] = function
        except NotWhole as reason:
            found.skipped[name] = str(reason)
            return True
        except NoMlp as reason:
            # Most that code calls is no activation, such as a norm or a scale.
            if not function or (code and (code.why_not or function.name not in FUNCTIONS)):
                return False
            found.skipped[name] = str(reason)
            return True
        return mlp is not None

    def _around_call(self, owner: str, name: str, code_name: str, number: int) -> Mlp | None:
        """The MLP around a call; None if it is of a module that is looked at as an attribute."""
        code = self.codes(owner)[code_name]
        region = code.regions[number]
        if region.after.op == "call_module":
            calls, _ = self._calls(owner, str(region.after.target))
            if len(self._mlps(owner, name, calls)) < 2:
                return None
        call = f"the code that calls it{_at([region.after.meta[LINE]])}"
        mlp = Walk(self.model, owner).mlp(name, region.before, region.after, region.steps)
        if mlp is None:
            raise NoMlp(f"{call} has no linear map on either side of it")
        if code.why_not:
            raise NotWhole(f"{call} cannot be regenerated: {code.why_not}")
        return replace(mlp, call=number, code=code_name)

    def _around_attribute(self, owner: str, name: str) -> Mlp | None:
        """The MLP around an attribute; None if each call of it is looked at by itself."""
        experts = expert_widths(self.model.get_submodule(owner))
        if experts:
            return Mlp(name, owner, owner, experts[:3], "", gated=experts[3])
        lines: list[str] = []
        stopped: list[str] = []
        for path in _owner_and_holder(self.model, owner):
            target = name[len(path) :].strip(".")
            calls, stops = self._calls(path, target)
            lines += [call.meta[LINE] for call in calls]
            stopped += stops if not calls else []
            mlps = self._mlps(path, name, calls)
            if len(mlps) > 1:
                codes = self.codes(path).values()
                whys = [
                    c.why_not for c in codes if any(r.after.target == target for r in c.regions)
                ]
                if "" in whys:
                    return None
                why = "; such a module is taken if it has no parameters, and one code calls it"
                if whys:
                    why = f", in code that cannot be regenerated: {whys[0]}"
                raise NoMlp(f"it is called more than once{_at(lines)}{why}")
            for mlp in filter(None, mlps):
                for followed in mlp.followed:
                    holder, _, function = followed.rpartition(".")
                    why = self.codes(holder)[function].why_not
                    if why:
                        at = f"{followed}, which calls it{_at(lines)},"
                        raise NotWhole(f"{at} cannot be regenerated: {why}")
                return mlp
        if lines:
            raise NoMlp(
                f"the code that calls it{_at(lines)} has no linear map on either side of it"
            )
        where = _at(stopped) and f": it cannot follow the code{_at(stopped)}"
        raise NoMlp(f"torch.fx sees no call of it{where}")

    def _trace(self, path: str) -> tuple[fx.Graph | None, dict[str, str]]:
        tracer = Tracer(is_step=_is_step)
        return tracer.graph_or_none(self.model.get_submodule(path)), tracer.stops

    def _calls(self, path: str, target: str) -> tuple[list[fx.Node], list[str]]:
        """The calls of a child in the code of a module, and the lines where tracing stopped."""
        graph, stops = self.trace(path)
        nodes = graph.nodes if graph else ()
        return (
            [node for node in nodes if node.op == "call_module" and node.target == target],
            [s for at, s in stops.items() if not at or target.startswith(f"{at}.")],
        )

    def _mlps(self, path: str, name: str, calls: list[fx.Node]) -> set[Mlp | None]:
        """The MLPs around some calls; for rounds of a loop over the same linear maps it is one."""
        mlps: set[Mlp | None] = set()
        for call in calls:
            try:
                mlps.add(Walk(self.model, path).mlp(name, input_of(call), call, [call]))
            except NoMlp:
                if len(calls) == 1:
                    raise
                mlps.add(None)
        return mlps


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
    """The lines that are known, as " at file.py:12, file.py:14"."""
    known = listing(dict.fromkeys(filter(None, lines)))
    return f" at {known}" if known else ""


def _owner_and_holder(model: nn.Module, owner: str) -> list[str]:
    """The owner of an activation and the module that holds it, except lists and dictionaries."""
    parts = owner.split(".") if owner else []
    paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return [p for p in paths if not isinstance(model.get_submodule(p), _LISTS)][:2]


def _is_head(mlp: Mlp, others: list[Mlp]) -> bool:
    """Return True if an MLP changes the width outside of the numbered blocks with other MLPs."""
    d_in, _, d_out = mlp.widths
    return d_in != d_out and not _is_numbered(mlp) and any(map(_is_numbered, others))


def _is_numbered(mlp: Mlp) -> bool:
    return any(part.isdecimal() for part in mlp.activation.split("."))
