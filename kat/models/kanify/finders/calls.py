"""Activations that the code of a module calls as functions, such as ``F.gelu(x)`` or
``F.relu(x).square()``, and the code with modules in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from kat.models.kanify.finders.trace import CODE, trace_loosely, trace_own, written_class
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


def regions(graph: fx.Graph, owner: nn.Module) -> list[Region]:
    """The regions of a graph, as large as they can be, in the order of the code.

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
    return [region for region in found if region.is_whole]


def _is_constant(value: fx.Node, owner: nn.Module) -> bool:
    """Whether a value is a tensor of the owner that is not trained."""
    if value.op != "get_attr":
        return False
    path, _, name = str(value.target).rpartition(".")
    tensor = getattr(owner.get_submodule(path), name)
    return not (isinstance(tensor, nn.Parameter) and tensor.requires_grad)


def called_regions(owner: nn.Module) -> list[Region]:
    """The regions of a module's own code; none if that cannot be written anew."""
    if not any(owner.children()) or "forward" in vars(owner):
        return []
    if isinstance(owner, fx.GraphModule):  # its copies are made of its graph
        return []
    graphs = [trace_own(owner, training) for training in (True, False)]
    in_training, in_evaluation = (regions(graph, owner) if graph else [] for graph in graphs)
    same = [r.name for r in in_training] == [r.name for r in in_evaluation]
    return in_evaluation if same else []


def fixed_regions(owner: nn.Module) -> list[Region]:
    """The regions of a module's own code where that cannot be written anew, as far as seen."""
    if not any(owner.children()) or "forward" in vars(owner) or _code(owner) is not None:
        return []
    if not isinstance(owner, fx.GraphModule) and trace_own(owner, owner.training) is not None:
        return []
    graph = trace_loosely(owner)
    return regions(graph, owner) if graph else []


def called_already(owner: nn.Module) -> set[int]:
    """The numbers of the regions that have modules in their place."""
    code = _code(owner)
    return set(code.places.values()) if code else set()


def with_module(owner: nn.Module, name: str, number: int) -> type[nn.Module]:
    """The class of a module, with its child of that name in the place of a region, too."""
    code = _code(owner)
    places = code.places if code else {}
    code = CodeWithModules(written_class(owner), {**places, name: number})
    code.write(owner)
    return code.derived


def _code(owner: nn.Module) -> CodeWithModules | None:
    return getattr(type(owner), CODE, None)


class CodeWithModules:
    """A class whose ``forward`` has children of the module in the place of regions.

    It is derived from the module's class and has its name, as ``torch.nn.utils.parametrize`` does.
    So what looks at the class finds the code that runs: ``torch.fx``, ``torch.export``, copies.

    Args:
        base: the class as it was written.
        places: by the name of the child, the number of the region.
    """

    def __init__(self, base: type[nn.Module], places: dict[str, int]) -> None:
        self.base = base
        self.places = places
        self.functions: Functions = {}
        self.derived = self._derived()

    def __getstate__(self) -> dict[str, Any]:
        """The arguments: the class and its functions cannot be pickled, and are made anew."""
        return {"base": self.base, "places": self.places}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes the class."""
        self.__init__(**state)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeWithModules:
        """Itself: it knows of no module."""
        return self

    def write(self, module: nn.Module) -> None:
        """Writes the functions of a module and its inputs, for training and for evaluation."""
        for training in (True, False):
            graph = trace_own(module, training)
            assert graph is not None
            found = regions(graph, module)
            for name, number in self.places.items():
                _replace(graph, found[number], name)
            self.functions[training] = type(fx.GraphModule(module, graph)).forward

    def _derived(self) -> type[nn.Module]:
        base: Any = self.base

        @functools.wraps(base.forward)
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.functions[module.training](module, *args, **kwargs)

        def reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
            _, _, *state = base.__reduce_ex__(module, protocol)
            return (_new, (self,), *state)

        def set_state(module: nn.Module, state: dict[str, Any]) -> None:
            base.__setstate__(module, state)
            if not self.functions:
                self.write(module)

        names = {
            "forward": forward,
            "__reduce_ex__": reduced,
            "__setstate__": set_state,
            CODE: self,
        }
        names |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
        derived: type[nn.Module] = type(base)(base.__name__, (base,), names)
        return derived


def _new(code: CodeWithModules) -> nn.Module:
    """A module of the class, without a state, of which copies are made."""
    module: nn.Module = object.__new__(code.derived)
    return module


def _replace(graph: fx.Graph, region: Region, name: str) -> None:
    with graph.inserting_before(region.after):
        call = graph.call_module(name, (region.before,))
    region.after.replace_all_uses_with(call)
    for step in reversed(region.steps):
        if not step.users:
            graph.erase_node(step)
