"""Activations that the code of a module calls as functions, such as ``F.gelu(x)`` or
``F.relu(x).square()``, and the code with modules in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from kat.models.kanify.finders.trace import trace_loosely, trace_own
from kat.models.kanify.finders.walk import asks_size, is_on_path

Functions = dict[bool, Callable[..., Any]]


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
    def is_whole(self) -> bool:
        """Whether its value alone leaves it."""
        inside = set(self.steps)
        leaving = [s for s in self.steps if not asks_size(s) and not inside.issuperset(s.users)]
        return bool(leaving) and leaving == [self.after]

    def module(self, owner: nn.Module) -> nn.Module:
        """The steps as a module, with the owner's parameters."""
        graph = fx.Graph()
        values = {self.before: graph.placeholder("x")}
        for node in self.before.graph.nodes:
            if node.op == "get_attr" or node in self.steps:
                values[node] = graph.node_copy(node, values.__getitem__)
        graph.output(values[self.after])
        graph.eliminate_dead_code()
        return fx.GraphModule(owner, graph, self.name)


def regions(graph: fx.Graph) -> list[Region]:
    """The regions of a graph, as large as they can be, in the order of the code.

    What may stand between an activation and a linear map, such as dropout, is in none.
    """
    found: list[Region] = []
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method") or is_on_path(node):
            continue
        inputs = {value for value in node.all_input_nodes if value.op != "get_attr"}
        for region in found:
            if inputs <= {region.before, *region.steps}:
                region.steps.append(node)
                break
        else:
            if len(inputs) == 1:
                found.append(Region(inputs.pop(), [node]))
    return [region for region in found if region.is_whole]


def called_regions(owner: nn.Module) -> list[Region]:
    """The regions of a module's own code; none if that cannot be written anew."""
    if not any(owner.children()) or not isinstance(_forward(owner), CodeWithModules | None):
        return []
    graphs = [trace_own(owner, training) for training in (True, False)]
    in_training, in_evaluation = (regions(graph) if graph else [] for graph in graphs)
    same = [r.name for r in in_training] == [r.name for r in in_evaluation]
    return in_evaluation if same else []


def fixed_regions(owner: nn.Module) -> list[Region]:
    """The regions of a module's own code where that cannot be written anew, as far as seen."""
    if not any(owner.children()) or _forward(owner) is not None:
        return []
    if trace_own(owner, owner.training) is not None:
        return []
    graph = trace_loosely(owner)
    return regions(graph) if graph else []


def called_already(owner: nn.Module) -> set[int]:
    """The numbers of the regions that have modules in their place."""
    code = _forward(owner)
    return set(code.places.values()) if isinstance(code, CodeWithModules) else set()


def with_module(owner: nn.Module, name: str, number: int) -> CodeWithModules:
    """The code of a module with its child of that name in the place of a region, too."""
    code = _forward(owner)
    before = code.places if isinstance(code, CodeWithModules) else {}
    return CodeWithModules(owner, {**before, name: number})


def _forward(owner: nn.Module) -> Any:
    """What stands in the place of the ``forward`` of a module's class, None if nothing does."""
    return vars(owner).get("forward")


class CodeWithModules:
    """The ``forward`` of a module, with children of the module in the place of regions.

    It is an attribute of the module, which keeps its class.

    Args:
        owner: the module.
        places: by the name of the child, the number of the region.
    """

    def __init__(self, owner: nn.Module, places: dict[str, int]) -> None:
        self.owner = owner
        self.places = places
        self.functions: Functions | None = self._written()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the code computes, in the present mode of the module."""
        if self.functions is None:
            self.functions = self._written()
        return self.functions[self.owner.training](self.owner, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the functions, which cannot be pickled and are written anew."""
        return {**vars(self), "functions": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeWithModules:
        """The same functions for a copy of the module."""
        copied: CodeWithModules = object.__new__(type(self))
        vars(copied).update({**vars(self), "owner": memo[id(self.owner)]})
        return copied

    def _written(self) -> Functions:
        """The functions of the module and its inputs, for training and for evaluation."""
        functions = {}
        for training in (True, False):
            graph = trace_own(self.owner, training)
            assert graph is not None
            found = regions(graph)
            for name, number in self.places.items():
                _replace(graph, found[number], name)
            functions[training] = type(fx.GraphModule(self.owner, graph)).forward
        return functions


def _replace(graph: fx.Graph, region: Region, name: str) -> None:
    with graph.inserting_before(region.after):
        call = graph.call_module(name, (region.before,))
    region.after.replace_all_uses_with(call)
    for step in reversed(region.steps):
        if not step.users:
            graph.erase_node(step)
