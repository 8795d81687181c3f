"""The MLPs of a model: a linear map, an element-wise activation, a linear map, in this order.

They are found by what the code of the model does (:mod:`kat.models.kanify.finders.trace`). Names of
models, classes and attributes do not matter, nor does the order in which modules were registered.
No sample input is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, count
from typing import Any, NamedTuple

from torch import fx, nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.activation import LINEAR, Activation, activation_function, kind_of
from kat.models.kanify.finders.calls import Region, called_already, called_regions, fixed_regions
from kat.models.kanify.finders.experts import expert_widths
from kat.models.kanify.finders.linear import linear_map
from kat.models.kanify.finders.mlp import Mlp, NoMlp, joined
from kat.models.kanify.finders.trace import held_functions, named_children, trace
from kat.models.kanify.finders.walk import IDENTITIES, Walk, input_of

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
        is_fixed: whether that code cannot be written anew.
    """

    owner: str
    attribute: str
    activation: Callable[..., Any]
    call: tuple[int, Region] | None = None
    is_fixed: bool = False

    @property
    def name(self) -> str:
        return joined(self.owner, self.attribute)

    @property
    def is_composed(self) -> bool:
        return isinstance(self.activation, nn.Module) and any(self.activation.children())


def find(model: nn.Module) -> Found:
    """Finds the MLPs of a model, without changing it."""
    graph = cache(lambda path: trace(model.get_submodule(path), _is_step))
    found = Found()
    for owner, module in model.named_modules():
        for candidate in chain(_attributes(owner, module), _calls(owner, module, found)):
            function = activation_function(candidate.activation)
            if (function and function.name == LINEAR) or (candidate.is_composed and not function):
                continue
            try:
                mlp = _mlp(model, candidate, graph)
            except NoMlp as reason:
                # Most that code calls is no activation, such as a norm or a scale.
                named = function and (function.is_known or not candidate.call)
                if named and not candidate.is_fixed:
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
    if candidate.is_fixed:
        return (
            "the code that calls it cannot be written anew: it has optional arguments, conditions"
            " on its input, a decorator, 'with', assignments to attributes or draws of random"
            " numbers, or is a graph of torch.fx: kanify the model that was traced"
        )
    if hasattr(model.get_submodule(mlp.first), "act1"):
        return f"{mlp.first} has an attribute 'act1', the name for its rational, already"
    return ""


def _attributes(owner: str, module: nn.Module) -> Iterator[_Candidate]:
    """The children and functions of a module that may be activations."""
    if _is_step(module) or not any(module.children()):
        return
    for name, child in named_children(module).items():
        if _may_be_activation(child):
            yield _Candidate(owner, name, child)
    for name, function in held_functions(module).items():
        yield _Candidate(owner, name, function)


def _calls(owner: str, module: nn.Module, found: Found) -> Iterator[_Candidate]:
    """The calls in the code of a module that may be activations.

    Each has the first name that neither the module nor a call before it has; so what was found
    is looked up when a call is asked for.
    """
    taken, replaced = set(dir(module)), called_already(module)

    def is_free(name: str) -> bool:
        full = joined(owner, name)
        return name not in taken and full not in found.functions and full not in found.skipped

    for number, region in enumerate(called_regions(module)):
        if number not in replaced:
            name = next(filter(is_free, _names()))
            yield _Candidate(owner, name, region.module(module), (number, region))
    for number, region in enumerate(fixed_regions(module)):
        name = next(filter(is_free, _names()))
        yield _Candidate(owner, name, region.module(module), (number, region), is_fixed=True)


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


def _mlp(model: nn.Module, candidate: _Candidate, graph: Callable[[str], fx.Graph | None]) -> Mlp:
    """The MLP around a candidate.

    If the input of an attribute comes from the caller of its owner, or its output is returned, as
    in BERT, the code of the module that holds the owner is followed too. It is followed no farther:
    modules farther apart are not one MLP.

    Raises:
        NoMlp: there is none.
    """
    name, owner = candidate.name, candidate.owner
    if candidate.call:
        number, region = candidate.call
        mlp = Walk(model, owner).mlp(name, region.before, region.after, region.steps)
        if mlp:
            return replace(mlp, call=number)
        raise NoMlp("the code that calls it has no linear map on either side of it")
    experts = expert_widths(model.get_submodule(owner))
    if experts:
        return Mlp(name, owner, owner, experts[:3], "", gate=owner if experts[3] else None)
    for path in _owner_and_holder(model, owner):
        target, traced = name[len(path) :].lstrip("."), graph(path)
        calls = [
            node
            for node in (traced.nodes if traced else ())
            if node.op == "call_module" and node.target == target
        ]
        if len(calls) > 1:
            raise NoMlp("it is called more than once")
        for call in calls:
            mlp = Walk(model, path).mlp(name, input_of(call), call, [call])
            if mlp:
                return mlp
    raise NoMlp("the code that could be traced has no linear map on either side of it")


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
