"""The MLPs of a model: a linear map, an element-wise activation, a linear map, in this order.

They are found by what the code of the model does (:mod:`kat.models.kanify.finders.trace`). Names of
models, classes and attributes do not matter, nor does the order in which modules were registered.
No sample input is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, count
from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.activation import LINEAR, Activation, activation_function, kind_of
from kat.models.kanify.finders.calls import (
    Code,
    Region,
    code_of,
    code_of_name,
    functions_of,
    places_of,
)
from kat.models.kanify.finders.linear import expert_widths, linear_map
from kat.models.kanify.finders.mlp import Mlp, NoMlp, joined
from kat.models.kanify.finders.trace import (
    LINE,
    copy_of_held,
    held_functions,
    named_children,
    trace,
)
from kat.models.kanify.finders.walk import IDENTITIES, Walk, input_of
from kat.text import listing

_LISTS = (nn.ModuleList, nn.ModuleDict)
_CONTAINERS = (nn.Sequential, *_LISTS)


@dataclass(frozen=True)
class Found:
    """What :func:`find` finds.

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


class _Candidate(NamedTuple):
    """What may be an activation.

    Args:
        owner: the name of the module that has it.
        attribute: its name there.
        activation: itself.
        call: where the code of the owner calls it; None for an attribute.
        code: the name of the function with that code.
        why_fixed: why that code cannot be written anew, if it cannot.
    """

    owner: str
    attribute: str
    activation: Callable[..., Any]
    call: tuple[int, Region] | None = None
    code: str = "forward"
    why_fixed: str = ""

    @property
    def name(self) -> str:
        return joined(self.owner, self.attribute)

    @property
    def is_composed(self) -> bool:
        return isinstance(self.activation, nn.Module) and any(self.activation.children())


def find(model: nn.Module) -> Found:
    """Finds the MLPs of a model, without changing it."""
    traces = cache(lambda path: _Trace.of(model, path))
    found = Found()
    for owner, module in model.named_modules():
        codes = {name: code_of(module, name) for name in functions_of(module)}
        for candidate in chain(
            _attributes(owner, module, codes), _calls(owner, module, codes, found)
        ):
            function = activation_function(candidate.activation)
            if (function and function.name == LINEAR) or (candidate.is_composed and not function):
                continue
            try:
                mlp = _mlp(model, candidate, traces)
            except _NotBySite:
                continue
            except NoMlp as reason:
                # Most that code calls is no activation, such as a norm or a scale.
                named = function and (function.is_known or not candidate.call)
                if named and not candidate.why_fixed:
                    found.skipped[candidate.name] = str(reason)
                continue
            unfit = _unfit(model, mlp, candidate, function)
            if unfit or function is None:
                found.skipped[candidate.name] = unfit
                continue
            found.mlps.append(replace(mlp, function=function.name))
            found.functions[candidate.name] = _as_before(found, function)
    found.heads.extend(mlp.activation for mlp in found.mlps if _is_head(mlp, found.mlps))
    return found


def _unfit(model: nn.Module, mlp: Mlp, candidate: _Candidate, function: Activation | None) -> str:
    """Why no rational can be put there; empty if one can."""
    if function is None:
        return f"{kind_of(candidate.activation)} is not one function of every value by itself"
    if candidate.call and candidate.why_fixed:
        line = candidate.call[1].line
        return f"the code that calls it{line} cannot be written anew: {candidate.why_fixed}"
    if hasattr(model.get_submodule(mlp.first), "act1"):
        return f"{mlp.first} has an attribute 'act1', the name for its rational, already"
    return ""


def _attributes(owner: str, module: nn.Module, codes: Mapping[str, Code]) -> Iterator[_Candidate]:
    """The children and functions of a module that may be activations."""
    if _is_step(module) or not any(module.children()):
        return
    for name, child in named_children(module).items():
        if _may_be_activation(child):
            yield _Candidate(owner, name, child)
    for name in held_functions(module):
        if name not in codes:
            yield _Candidate(owner, name, copy_of_held(module, name))


def _calls(
    owner: str, module: nn.Module, codes: Mapping[str, Code], found: Found
) -> Iterator[_Candidate]:
    """The calls in the code of a module that may be activations.

    Each has the first name that neither the module nor a call before it has; so what was found
    is looked up when a call is asked for.
    """
    taken, replaced = set(dir(module)), places_of(module)

    def is_free(name: str) -> bool:
        full = joined(owner, name)
        return name not in taken and full not in found.functions and full not in found.skipped

    for code, known in codes.items():
        for number, region in enumerate(known.regions):
            if (code, number) not in replaced:
                name = next(filter(is_free, _names()))
                activation = region.module(module)
                yield _Candidate(owner, name, activation, (number, region), code, known.why_not)


def _names() -> Iterator[str]:
    """Names for the module in the place of a call."""
    yield "act"
    for number in count(2):
        yield f"act_{number}"


def _may_be_activation(module: nn.Module) -> bool:
    """Whether a module has no parameters but single numbers, as timm's StarReLU, or is a PReLU."""
    if any(isinstance(part, (*_CONTAINERS, *IDENTITIES)) for part in module.modules()):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    single = all(not is_lazy(tensor) and tensor.numel() == 1 for tensor in tensors)
    return single or isinstance(module, nn.PReLU)


def _is_step(module: nn.Module) -> bool:
    """Whether the code of a module with children is not followed."""
    return linear_map(module) is not None or _may_be_activation(module)


class _NotBySite(Exception):
    """A module that is called several times is a candidate at each call, or only as a whole."""


class _Trace(NamedTuple):
    """The graph of a module, None if it cannot be traced, and the lines where tracing stopped."""

    graph: fx.Graph | None
    stops: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module, path: str) -> _Trace:
        stops: dict[str, str] = {}
        return cls(trace(model.get_submodule(path), _is_step, stops), stops)


def _mlp(model: nn.Module, candidate: _Candidate, traces: Callable[[str], _Trace]) -> Mlp:
    """The MLP around a candidate.

    If the input of an attribute comes from the caller of its owner, or its output is returned, as
    in BERT, the code of the module that holds the owner is followed too. It is followed no farther:
    modules farther apart are not one MLP.

    Raises:
        NoMlp: there is none.
        _NotBySite: its calls are candidates instead, or the module that is called here.
    """
    name, owner = candidate.name, candidate.owner
    if candidate.call:
        number, region = candidate.call
        if region.after.op == "call_module" and not _is_by_site(model, candidate, traces):
            raise _NotBySite
        mlp = Walk(model, owner).mlp(name, region.before, region.after, region.steps)
        if mlp:
            return replace(mlp, call=number, code=candidate.code)
        raise NoMlp(f"the code that calls it{region.line} has no linear map on either side of it")
    experts = expert_widths(model.get_submodule(owner))
    if experts:
        return Mlp(name, owner, owner, experts[:3], "", gate=owner if experts[3] else None)
    called: list[str] = []
    stopped: list[str] = []
    for path in _owner_and_holder(model, owner):
        target, traced = name[len(path) :].lstrip("."), traces(path)
        calls = [
            node
            for node in (traced.graph.nodes if traced.graph else ())
            if node.op == "call_module" and node.target == target
        ]
        called += [node.meta[LINE] for node in calls]
        if len(calls) > 1:
            mlp = _same_mlp(model, path, name, calls)
        elif calls:
            mlp = Walk(model, path).mlp(name, input_of(calls[0]), calls[0], calls)
        else:
            mlp, around = None, f".{target}"
            stops = traced.stops.items()
            stopped += [
                line for stop, line in stops if around.startswith(f".{stop}".rstrip(".") + ".")
            ]
        if mlp:
            _check_followed(model, mlp, _at(called))
            return mlp
    if called:
        raise NoMlp(f"the code that calls it{_at(called)} has no linear map on either side of it")
    why = f": it cannot follow the code{_at(stopped)}" if _at(stopped) else ""
    raise NoMlp(f"torch.fx sees no call of it{why}")


def _check_followed(model: nn.Module, mlp: Mlp, at: str) -> None:
    """Raises NoMlp if a function that calls the MLP cannot be written anew."""
    for name in mlp.followed:
        why_not = code_of_name(model, name).why_not
        if why_not:
            raise NoMlp(f"{name}, which calls it{at}, cannot be written anew: {why_not}")


def _at(lines: list[str]) -> str:
    """The lines that are known, as " at file.py:12, file.py:14"."""
    known = listing(dict.fromkeys(filter(None, lines)))
    return f" at {known}" if known else ""


def _is_by_site(model: nn.Module, call: _Candidate, traces: Callable[[str], _Trace]) -> bool:
    """Return True if each call of the module that is called here is a candidate."""
    assert call.call
    full = joined(call.owner, str(call.call[1].after.target))
    owner, _, attribute = full.rpartition(".")
    try:
        _mlp(model, _Candidate(owner, attribute, call.activation), traces)
    except _NotBySite:
        return True
    except NoMlp:
        pass
    return False


def _same_mlp(model: nn.Module, path: str, name: str, calls: list[fx.Node]) -> Mlp | None:
    """The MLP around all calls of an activation, which are so many rounds of a loop.

    Raises:
        NoMlp: they are of several MLPs, and the code cannot be written anew.
        _NotBySite: they are of several MLPs.
    """
    walk, mlps = Walk(model, path), []
    for call in calls:
        try:
            mlps.append(walk.mlp(name, input_of(call), call, [call]))
        except NoMlp:
            mlps.append(None)
    if len(set(mlps)) == 1:
        return mlps[0]
    holder, target, why_not = model.get_submodule(path), str(calls[0].target), ""
    for function in functions_of(holder):
        code = code_of(holder, function)
        if any(region.after.target == target for region in code.regions):
            why_not = code.why_not
            if not why_not:
                raise _NotBySite
    reason = f"it is called more than once{_at([call.meta[LINE] for call in calls])}"
    raise NoMlp(
        f"{reason}, in code that cannot be written anew: {why_not}"
        if why_not
        else f"{reason}; such a module is taken if it has no parameters, and one code calls it"
    )


def _owner_and_holder(model: nn.Module, owner: str) -> list[str]:
    """The owner of an activation and the module that holds it, except lists and dictionaries."""
    parts = owner.split(".") if owner else []
    paths = [".".join(parts[:count]) for count in range(len(parts), -1, -1)]
    return [p for p in paths if not isinstance(model.get_submodule(p), _LISTS)][:2]


def _as_before(found: Found, function: Activation) -> Activation:
    """An equal function found before, so that it is fitted once; or the function."""
    return next((before for before in found.functions.values() if before == function), function)


def _is_head(mlp: Mlp, others: list[Mlp]) -> bool:
    """Whether an MLP changes the width outside of the numbered blocks that other MLPs are in."""
    d_in, _, d_out = mlp.widths
    return d_in != d_out and not _is_numbered(mlp) and any(map(_is_numbered, others))


def _is_numbered(mlp: Mlp) -> bool:
    return any(part.isdecimal() for part in mlp.activation.split("."))
