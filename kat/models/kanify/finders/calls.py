"""Code of a module that is written anew, with modules in the place of its calls of activations.

A call is of functions, such as ``F.gelu(x)`` or ``F.relu(x).square()``, or of a module that the
code calls several times. The code is ``forward``, or a function that the module holds as an
attribute and that calls its children, as minGPT's ``mlpf`` does. Such a function becomes a method,
so that a copy of the module calls the copy's children.
"""

from __future__ import annotations

import functools
import inspect
import operator
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from kat.models.kanify.finders.trace import (
    CODE,
    LINE,
    NotWhole,
    Tracer,
    held_functions,
    line_of_error,
    skeleton_of,
    trace,
    written_class,
    written_names,
)
from kat.models.kanify.finders.walk import asks_size, input_of, is_on_path


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
        targets = [step.target for step in self.steps if not asks_size(step)]
        return ", ".join(getattr(target, "__name__", str(target)) for target in targets)

    @property
    def line(self) -> str:
        """The line of the code, as " at file.py:12"; empty if it is unknown."""
        line = self.after.meta.get(LINE)
        return f" at {line}" if line else ""

    @property
    def is_whole(self) -> bool:
        """Whether its value alone leaves it."""
        inside = set(self.steps)
        leaving = [s for s in self.steps if not asks_size(s) and not inside.issuperset(s.users)]
        return bool(leaving) and leaving == [self.after]

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


def regions(graph: fx.Graph, owner: nn.Module) -> list[Region]:
    """The regions of a graph, as large as they can be, in the order of the code; then the modules
    and held functions that are called several times.

    What may stand between an activation and a linear map, such as dropout, is in none, and neither
    is what uses a trainable parameter of the owner: it would no longer be trained.
    """
    found: list[Region] = []
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method") or is_on_path(node):
            continue
        inputs = {value for value in node.all_input_nodes if not _is_constant(value, owner)}
        for region in found:
            if inputs and inputs <= {region.before, *region.steps}:
                region.steps.append(node)
                break
        else:
            if len(inputs) == 1:
                found.append(Region(inputs.pop(), [node]))
    called = [node for node in graph.nodes if node.op == "call_module" and node.all_input_nodes]
    counts = Counter(node.target for node in called)
    several = [node for node in called if counts[node.target] > 1]
    return [region for region in found if region.is_whole] + [
        Region(input_of(node), [node]) for node in several if not _has_parameters(owner, node)
    ]


def _has_parameters(owner: nn.Module, call: fx.Node) -> bool:
    called = functools.reduce(getattr, str(call.target).split("."), owner)
    return isinstance(called, nn.Module) and bool(list(called.parameters()))


def _is_constant(value: fx.Node, owner: nn.Module) -> bool:
    """Whether a value is a tensor of the owner that is not trained."""
    if value.op != "get_attr":
        return False
    path, _, name = str(value.target).rpartition(".")
    tensor = getattr(owner.get_submodule(path), name)
    return not (isinstance(tensor, nn.Parameter) and tensor.requires_grad)


@dataclass(frozen=True)
class Code:
    """Record what tracing found about one function of a module.

    Args:
        graphs: in training and in evaluation; empty if they do not say all that the code does.
        why_not: the reason for that.
        regions: from the graph in evaluation, or without graphs whatever could be seen.
    """

    graphs: dict[bool, fx.Graph] = field(default_factory=dict)
    why_not: str = ""
    regions: list[Region] = field(default_factory=list)


def functions_of(owner: nn.Module) -> list[str]:
    """The names of the functions whose code may call activations: ``forward``, and those held that
    call modules, as lambdas and closures do."""
    if not any(owner.children()) or "forward" in vars(owner):
        return []
    held = [name for name in held_functions(owner) if _calls_modules(owner, name)]
    return ["forward", *held, *(name for name in written_names(owner) if name != "forward")]


def places_of(owner: nn.Module) -> set[tuple[str, int]]:
    """The functions of a module, with the numbers of the regions that have been replaced."""
    written: WrittenClass | None = getattr(type(owner), CODE, None)
    return set(written.places.values()) if written else set()


def _calls_modules(owner: nn.Module, name: str) -> bool:
    graph = trace(owner, lambda child: True, name=name)
    return graph is not None and any(node.op == "call_module" for node in graph.nodes)


def code_of(owner: nn.Module, name: str) -> Code:
    """The code of a function of a module, as it was before it was written anew."""
    if name in written_names(owner):
        traced = getattr(owner, CODE).graphs
        graphs = {training: traced[name, training].graph for training in (True, False)}
        return Code(graphs, "", regions(graphs[False], owner))
    try:
        if name == "forward" and not regions(_graph_in_mode(owner, name, True, False), owner):
            return Code()
        graphs = {training: _graph(owner, name, training) for training in (True, False)}
        found = [regions(graphs[training], owner) for training in (True, False)]
        if [region.name for region in found[0]] != [region.name for region in found[1]]:
            raise NotWhole("it calls other functions in training than in evaluation")
    except NotWhole as reason:
        graph = trace(owner, lambda child: True, name=name)
        seen = regions(graph, owner) if graph and _has_its_tensors(owner, graph) else []
        return Code({}, str(reason), seen)
    return Code(graphs, "", found[1])


def code_of_name(model: nn.Module, name: str) -> Code:
    """The code of a function by its full name."""
    holder, _, function = name.rpartition(".")
    return code_of(model.get_submodule(holder), function)


def _graph(owner: nn.Module, name: str, training: bool) -> fx.Graph:
    """The graph of a function of a module with its children as steps.

    It does the same as the code with the present values of the module's attributes that are no
    tensors.

    Raises:
        NotWhole: the code does something that would not be in the graph.
    """
    graphs = [_graph_in_mode(owner, name, training, mode) for mode in (False, True)]
    first, second = (graph.python_code("self").src for graph in graphs)
    if first != second:
        raise NotWhole("it asks whether gradients or mixed precision are on")
    return graphs[0]


def _graph_in_mode(owner: nn.Module, name: str, training: bool, mode: bool) -> fx.Graph:
    if isinstance(owner, torch.jit.ScriptModule):
        raise NotWhole("it is TorchScript")
    if isinstance(owner, fx.GraphModule):  # its copies are made of its graph
        raise NotWhole("it is a graph of torch.fx: kanify the model that was traced")
    function = getattr(owner, name)
    if hasattr(function, "__wrapped__"):
        raise NotWhole("it has a decorator")
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind != p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters):
        raise NotWhole("it has optional arguments")
    skeleton = skeleton_of(owner)
    skeleton.train(training)
    before, drawn = _attributes(skeleton), (torch.get_rng_state(), random.getstate())
    tracer = _Own(skeleton, name)
    # Contexts and checkpoints are no steps of a graph: the tracer sees the first by the modes that
    # they change, and the second by the hooks that they need.
    try:
        with _in_mode(mode), disable_saved_tensors_hooks("a checkpoint is no step of a graph"):
            graph = tracer.trace_quietly()
    except NotWhole:
        raise
    except Exception as error:  # foreign code, run on symbols, can raise anything
        line = line_of_error(error)
        raise NotWhole(f"torch.fx cannot trace it{line and ' beyond '}{line}") from None
    if not torch.equal(drawn[0], tracer.drawn) or drawn[1] != random.getstate():
        random.setstate(drawn[1])
        raise NotWhole("it draws random numbers")
    if not _has_its_tensors(owner, graph):
        raise NotWhole("it uses tensors that are not the module's")
    after = _attributes(skeleton)
    if _has_changed(before, after) or _has_changed(
        _tensors(_attributes(owner)), _tensors(after), torch.equal
    ):
        raise NotWhole("it changes attributes or buffers")
    return graph


class _Own(Tracer):
    """Every child is a step; a condition on data ends the trace, as in ``fx.Tracer``."""

    mode: tuple[Any, ...] = ()
    drawn: torch.Tensor

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Checks that no context is around the step."""
        if kind == "placeholder":
            self.mode = _mode()
        if _mode() != self.mode:
            raise NotWhole("it changes whether gradients or mixed precision are on")
        if kind == "output":
            self.drawn = torch.get_rng_state()
        return super().create_node(kind, *args, **kwargs)


def _mode() -> tuple[Any, ...]:
    devices = ("cpu", "cuda")
    return torch.is_grad_enabled(), *(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices
    )


@contextmanager
def _in_mode(on: bool) -> Iterator[None]:
    """Without gradients and with mixed precision, or the other way round."""
    before = {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")}
    try:
        for device in before:
            torch.set_autocast_enabled(device, on)
        with torch.set_grad_enabled(not on):
            yield
    finally:
        for device, enabled in before.items():
            torch.set_autocast_enabled(device, enabled)


def _attributes(module: nn.Module) -> dict[tuple[str, str], Any]:
    """All attributes of all modules, and what is in those that are containers or objects."""
    parts = module.named_modules(remove_duplicate=False)
    held = {(path, name): value for path, part in parts for name, value in vars(part).items()}
    for (path, name), value in list(held.items()):
        if not isinstance(value, list | set | dict):
            plain = not isinstance(value, torch.Tensor | nn.Module | type)
            value = getattr(value, "__dict__", {}) if plain else {}
        items = value.values() if isinstance(value, Mapping) else value
        held |= {(path, f"{name}[{place}]"): item for place, item in enumerate(items)}
    return held


def _has_changed(
    before: dict[Any, Any], after: dict[Any, Any], same: Callable[[Any, Any], bool] = operator.is_
) -> bool:
    return before.keys() != after.keys() or any(
        not same(value, after[name])
        for name, value in before.items()
        if not getattr(value, "is_meta", False)
    )


def _tensors(attributes: dict[Any, Any]) -> dict[Any, torch.Tensor]:
    """Copy the attributes that code can change in place."""
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter)
    }


def _has_its_tensors(module: nn.Module, graph: fx.Graph) -> bool:
    """Return True if a graph uses no tensors but the module's."""
    names = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    with suppress(AttributeError):
        return all(operator.attrgetter(name)(module) is not None for name in names)
    return False


def write_anew(
    owner: nn.Module, function: str, place: tuple[str, int] | None = None
) -> list[Callable[[], None]]:
    """Make a regenerated function a method of the module's class.

    Args:
        owner: the module.
        function: the name of ``forward`` or of a held function.
        place: the name of a child, and the number of the region whose place it takes.

    Returns:
        The functions that undo it, to be called from last to first.

    Raises:
        AttributeError: the code cannot be written anew.
    """
    written: WrittenClass | None = getattr(type(owner), CODE, None)
    graphs = dict(written.graphs) if written else {}
    places = dict(written.places) if written else {}
    if function not in written_names(owner):
        code = code_of(owner, function)
        if not code.graphs:
            raise AttributeError(f"the code of {function} cannot be written anew: {code.why_not}")
        for training, graph in code.graphs.items():
            graphs[function, training] = _without_modules(_copied(graph))
    elif place is None:
        return []
    if place:
        places[place[0]] = function, place[1]
    undo: list[Callable[[], None]] = [functools.partial(setattr, owner, "__class__", type(owner))]
    replaced = {
        key: _without_modules(_with_places(traced.graph, owner, key[0], places))
        for key, traced in graphs.items()
    }
    owner.__class__ = WrittenClass(written_class(owner), graphs, replaced, places).derived
    held = vars(owner).pop(function, None)
    if held is not None:
        undo.append(functools.partial(setattr, owner, function, held))
    return undo


def _with_places(
    graph: fx.Graph, owner: nn.Module, function: str, places: dict[str, tuple[str, int]]
) -> fx.Graph:
    """A copy of a graph with children of the module in the place of regions."""
    copied = _copied(graph)
    found = regions(copied, owner)
    for name, (of, number) in places.items():
        if of == function:
            region = found[number]
            with copied.inserting_before(region.after):
                call = copied.call_module(name, (region.before,))
            region.after.replace_all_uses_with(call)
            for step in reversed(region.steps):
                if not step.users:
                    copied.erase_node(step)
    return copied


def _copied(graph: fx.Graph) -> fx.Graph:
    """A copy that does not know its tracer, which could not be pickled."""
    copied = fx.Graph()
    copied.output(copied.graph_copy(graph, {}))
    return copied


def _without_modules(graph: fx.Graph) -> fx.GraphModule:
    """A graph in a module that can be pickled, with stand-ins for the modules that it calls."""
    root: dict[str, Any] = {
        str(node.target): nn.Identity() if node.op == "call_module" else torch.empty(0)
        for node in graph.nodes
        if node.op in ("call_module", "get_attr")
    }
    return fx.GraphModule(root, graph)


class WrittenClass:
    """A class with functions that were written anew.

    It is derived from the module's class and has its name, as ``torch.nn.utils.parametrize`` does.
    So what looks at the class finds the code that runs: ``torch.fx``, ``torch.export``, copies.

    Args:
        base: the class as it was written.
        graphs: as traced, by the name of the function, in training or not.
        replaced: the same with children in the place of regions.
        places: by the name of the child, the function and the number of the region.
    """

    def __init__(
        self,
        base: type[nn.Module],
        graphs: dict[tuple[str, bool], fx.GraphModule],
        replaced: dict[tuple[str, bool], fx.GraphModule],
        places: dict[str, tuple[str, int]],
    ) -> None:
        self.arguments = base, graphs, replaced, places
        self.base = base
        self.graphs = graphs
        self.places = places
        self.derived = _derived(self, base, replaced)

    def __reduce__(self) -> tuple[Any, ...]:
        """The arguments: the class cannot be pickled, and is made anew."""
        return WrittenClass, self.arguments

    def __deepcopy__(self, memo: dict[int, Any]) -> WrittenClass:
        """Itself: it knows of no module."""
        return self


def _derived(
    written: WrittenClass, base: Any, replaced: dict[tuple[str, bool], fx.GraphModule]
) -> type[nn.Module]:
    def reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
        _, _, *state = base.__reduce_ex__(module, protocol)
        return (_new, (written,), *state)

    names: dict[str, Any] = {"__reduce_ex__": reduced, CODE: written}
    names |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    for name in dict.fromkeys(name for name, _ in replaced):
        in_evaluation, in_training = (type(replaced[name, mode]).forward for mode in (False, True))
        names[name] = _method(in_evaluation, in_training, getattr(base, name, None))
    derived: type[nn.Module] = type(base)(base.__name__, (base,), names)
    return derived


def _method(
    in_evaluation: Callable[..., Any], in_training: Callable[..., Any], before: Any
) -> Callable[..., Any]:
    def method(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        function = in_training if module.training else in_evaluation
        return function(module, *args, **kwargs)

    return functools.wraps(before)(method) if before else method


def _new(written: WrittenClass) -> nn.Module:
    """A module of the class, without a state, of which copies are made."""
    module: nn.Module = object.__new__(written.derived)
    return module
