"""Code that is regenerated from a graph of ``torch.fx``, with modules where it calls activations.

A call is of functions, such as ``F.relu(x).square()``, or of a module that the code calls several
times. The code is ``forward``, or a function that the module holds as an attribute and that calls
modules, as minGPT's ``mlpf`` does: it becomes a method, so that a copy calls its own modules.
"""

from __future__ import annotations

import functools
import inspect
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from kat.models.kanify.trace import (
    DEVICES,
    NotWhole,
    Tracer,
    held_functions,
    identities,
    line_of_error,
    unchanged,
)
from kat.models.kanify.walk import asks_size, called, input_of, is_on_path

_REGENERATED = "_kat_regenerated"
"""The attribute of a regenerated class."""


@dataclass(frozen=True)
class Region:
    """Steps that compute a value from one other value, and from nothing else.

    Args:
        before: the other value.
        steps: in the order of the code.
    """

    before: fx.Node
    steps: list[fx.Node]

    @property
    def after(self) -> fx.Node:
        """The value: the last that is no size."""
        return [step for step in self.steps if not asks_size(step)][-1]

    @property
    def name(self) -> str:
        """The names of what it calls, in their order."""
        return ", ".join(called(step) for step in self.steps if not asks_size(step))

    @property
    def is_whole(self) -> bool:
        """Return True if nothing but its value leaves it."""
        values = [step for step in self.steps if not asks_size(step)]
        return bool(values) and [s for s in values if not {*self.steps}.issuperset(s.users)] == [
            self.after
        ]

    def module(self, owner: nn.Module) -> nn.Module:
        """The steps as a module, with the owner's parameters."""
        graph = fx.Graph()
        values = {self.before: graph.placeholder("x")}
        used = {value for step in self.steps for value in step.all_input_nodes}
        for node in self.before.graph.nodes:
            if node in self.steps or (node.op == "get_attr" and node in used):
                values[node] = graph.node_copy(node, values.__getitem__)
        graph.output(values[self.after])
        return fx.GraphModule(owner, graph, self.name)


def _regions(graph: fx.Graph, owner: nn.Module) -> list[Region]:
    """The regions of a graph, as large as they can be, in the order of the code; then the modules
    and held functions without parameters that are called several times.

    What may stand between an activation and a linear map, such as dropout, is in none, and neither
    is what uses a trainable parameter of the owner: it would no longer be trained.
    """

    def target_of(node: fx.Node) -> Any:
        return operator.attrgetter(str(node.target))(owner)

    found: list[Region] = []
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method") or is_on_path(node):
            continue
        inputs = {
            v for v in node.all_input_nodes if v.op != "get_attr" or target_of(v).requires_grad
        }
        for region in found:
            if inputs and inputs <= {region.before, *region.steps}:
                region.steps.append(node)
                break
        else:
            if len(inputs) == 1:
                found.append(Region(inputs.pop(), [node]))
    found = [region for region in found if region.is_whole]
    calls = [node for node in graph.nodes if node.op == "call_module"]
    counts = Counter(node.target for node in calls)
    for node in calls:
        before, step = input_of(node), target_of(node)
        has_parameters = isinstance(step, nn.Module) and any(True for _ in step.parameters())
        if before and counts[node.target] > 1 and not has_parameters:
            found.append(Region(before, [node]))
    return found


@dataclass(frozen=True)
class Code:
    """One function of a module.

    Args:
        regions: of the graph in evaluation, or without graphs all that could be seen.
        graphs: in training and in evaluation; empty if they do not have all that the code does.
        why_not: the reason for that.
    """

    regions: list[Region]
    graphs: dict[bool, fx.Graph] = field(default_factory=dict)
    why_not: str = ""


def codes_of(model: nn.Module, path: str) -> dict[str, Code]:
    """The code of a module: ``forward``, and held functions that call modules, as lambdas do."""
    codes, owner = {}, model.get_submodule(path)
    names = [] if "forward" in vars(owner) or not any(owner.children()) else ["forward"]
    for name in (*names, *held_functions(owner)):
        seen = Tracer(name).graph_or_none(owner)
        if name == "forward" or (seen and any(node.op == "call_module" for node in seen.nodes)):
            codes[name] = _code(model, owner, name, seen)
    return codes


def _code(model: nn.Module, owner: nn.Module, name: str, seen: fx.Graph | None) -> Code:
    try:
        found = _regions(seen, owner) if seen else []
    except AttributeError:  # of a tensor that is not the module's
        found = []
    if name == "forward" and not found:
        return Code([])
    try:
        graphs = {mode: _whole_graph(model, owner, name, mode) for mode in (True, False)}
    except NotWhole as reason:
        return Code(found, why_not=str(reason))
    regions = {mode: _regions(graph, owner) for mode, graph in graphs.items()}
    if [region.name for region in regions[True]] != [region.name for region in regions[False]]:
        return Code(found, why_not="it calls other functions in training than in evaluation")
    return Code(regions[False], graphs)


def _whole_graph(model: nn.Module, owner: nn.Module, name: str, training: bool) -> fx.Graph:
    """The graph of a function of a module with its children as steps.

    It does the same as the code with the present values of attributes that are no tensors.

    Raises:
        NotWhole: the code does something that would not be in the graph.
    """
    if isinstance(owner, fx.GraphModule):  # its copies are made of its graph
        raise NotWhole("it is a graph of torch.fx: kanify the model that was traced")
    parameters = inspect.signature(getattr(owner, name)).parameters.values()
    if any(p.kind != p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters):
        raise NotWhole("it has optional arguments")
    # A checkpoint is no step of a graph: it is known by the hooks that it needs.
    no_hooks = disable_saved_tensors_hooks("a checkpoint is no step of a graph")
    with unchanged(model), torch.random.fork_rng(), _in_mode(training), no_hooks:
        model.train(training)
        tracer = Tracer(name, strict=True)
        tracer.prepare(owner)
        before, drawn = identities(model), (torch.get_rng_state(), random.getstate())
        try:
            graph = tracer.trace(owner)
        except NotWhole:
            raise
        except Exception as error:  # foreign code, run on symbols, can raise anything
            line = line_of_error(error)
            raise NotWhole(f"torch.fx cannot trace it{line and ' beyond '}{line}") from None
        if not torch.equal(drawn[0], torch.get_rng_state()) or drawn[1] != random.getstate():
            random.setstate(drawn[1])
            raise NotWhole("it draws random numbers")
        if any(str(node.target).startswith("_tensor_constant") for node in graph.nodes):
            raise NotWhole("it uses tensors that are not the module's")
        if identities(model) != before:
            raise NotWhole("it changes attributes")
        return graph


@contextmanager
def _in_mode(training: bool) -> Iterator[None]:
    """Runs code with gradients, or without them in mixed precision: code that changes one shows."""
    before = [torch.is_autocast_enabled(device) for device in DEVICES]
    try:
        for device in DEVICES:
            torch.set_autocast_enabled(device, not training)
        with torch.set_grad_enabled(training):
            yield
    finally:
        for device, enabled in zip(DEVICES, before, strict=True):
            torch.set_autocast_enabled(device, enabled)


def regenerate(model: nn.Module, path: str, places: Mapping[str, Mapping[int, str]]) -> None:
    """Make functions of a module methods of its class, with children in the place of regions.

    Args:
        model: with the module.
        path: the name of the module; it gets a class derived from its own.
        places: by the name of the function, the names of children by the numbers of regions.

    Raises:
        LookupError: there is no such code, or it cannot be regenerated.
    """
    owner, codes = model.get_submodule(path), codes_of(model, path)
    made: _Regenerated | None = vars(type(owner)).get(_REGENERATED)
    graphs = {**made.graphs} if made else {}
    for function, children in places.items():
        for training in (True, False):
            graph = codes[function].graphs[training]
            found = _regions(graph, owner)
            for region, child in [(found[number], child) for number, child in children.items()]:
                with graph.inserting_before(region.after):
                    call = graph.call_module(child, (region.before,))
                region.after.replace_all_uses_with(call)
                for step in reversed(region.steps):
                    if not step.users:
                        graph.erase_node(step)
            graphs[function, training] = _without_modules(graph)
    kind: Any = _Regenerated(made.base if made else type(owner), graphs).derived
    owner.__class__ = kind
    for function in places:
        vars(owner).pop(function, None)


def _without_modules(graph: fx.Graph) -> fx.GraphModule:
    """A copy of a graph that can be pickled, with stand-ins for the modules that it calls."""
    copied = fx.Graph()  # without the tracer
    copied.output(copied.graph_copy(graph, {}))
    root: dict[str, Any] = {
        str(node.target): nn.Identity() if node.op == "call_module" else torch.empty(0)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    return fx.GraphModule(root, copied)


class _Regenerated:
    """A class with regenerated functions, derived from a module's class, and with its name.

    ``torch.nn.utils.parametrize`` does the same. So what looks at the class finds the code that
    runs: ``torch.fx``, ``torch.export``, copies. The class cannot be pickled, and is made anew.

    Args:
        base: the class as it was written.
        graphs: by the name of the function, in training or not.
    """

    def __init__(self, base: Any, graphs: dict[tuple[str, bool], fx.GraphModule]) -> None:
        def reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
            _, _, *state = base.__reduce_ex__(module, protocol)
            return (_new, (self,), *state)

        self.base = base
        self.graphs = graphs
        names: dict[str, Any] = {"__reduce_ex__": reduced, _REGENERATED: self}
        names |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
        for function in {function for function, _ in graphs}:
            codes = {mode: type(graphs[function, mode]).forward for mode in (False, True)}
            names[function] = _method(codes, getattr(base, function, None))
        self.derived = type(base)(base.__name__, (base,), names)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Regenerated, (self.base, self.graphs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Regenerated:
        return self


def _method(codes: dict[bool, Callable[..., Any]], before: Any) -> Callable[..., Any]:
    in_evaluation, in_training = codes[False], codes[True]

    def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (in_training if module.training else in_evaluation)(module, *args, **kwargs)

    return functools.wraps(before)(method) if before else method


def _new(made: _Regenerated) -> nn.Module:
    """A module of the class, without a state, of which copies are made."""
    module: nn.Module = object.__new__(made.derived)
    return module
