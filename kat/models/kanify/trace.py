"""The code of a module as steps, by ``torch.fx``.

The code runs on symbols, in the model itself, which is restored afterwards. A trace that enters the
children of a module shows what happens to its tensors.
"""

from __future__ import annotations

import copy
import functools
import inspect
import linecache
import os
import traceback
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from kat.models.kanify.layers import has_code, held_functions, joined, named_children

_LIBRARIES = (
    os.path.dirname(torch.__file__) + os.sep,
    os.path.dirname(__file__),
    "<eval_with_key>",
)
"""The beginnings of the names of files that are no code of the model."""
_CONTAINERS = (dict, OrderedDict, list, set)


@dataclass(eq=False)
class Step:
    """A step of a module's code: an argument, a call, or the result.

    Args:
        node: the step in the graph of ``torch.fx``.
        name: the full name of the module or held function that it calls, else of the module whose
            own code it is.
        module: the module that it calls; of an argument, the module whose code it is; else an empty
            one.
        line: where it stands in the code, "" if unknown.
        inputs: the steps whose values it takes.
        users: the steps that take its value, but for those that ask for its size or dtype.
    """

    node: fx.Node
    name: str
    module: nn.Module
    line: str
    inputs: list[Step]
    users: list[Step] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The name of the function that it calls, or of the class of the module."""
        called = self.node.target if type(self.module) is nn.Module else type(self.module)
        return str(getattr(called, "__name__", called))


class Code(NamedTuple):
    """The code of a module, without steps if it cannot be traced.

    Args:
        steps: by their names, in the order of the code.
        stops: the lines at which tracing failed or code depends on data, by the modules' names.
    """

    steps: dict[str, list[Step]]
    stops: dict[str, str]


def code_of(model: nn.Module, path: str) -> Code:
    """Return the code of a module of a model, with the code of the modules inside."""
    root, tracer = model.get_submodule(path), _Tracer()
    graph = tracer.graph_of(root)
    modules = dict(root.named_modules(remove_duplicate=False))
    made: dict[fx.Node, Step] = {}
    steps: dict[str, list[Step]] = defaultdict(list)
    for node in graph.nodes:
        called = str(node.target) if node.op == "call_module" else node.meta["path"]
        known = modules if node.op in ("call_module", "placeholder") else {}
        inputs = [made[each] for each in node.all_input_nodes]
        module, line = known.get(called, nn.Module()), node.meta["line"]
        step = Step(node, joined(path, called), module, line, inputs)
        if step.kind not in ("size", "dim", "getattr"):
            for each in inputs:
                each.users.append(step)
        made[node] = step
        steps[step.name].append(step)
    return Code(steps, {joined(path, at): line for at, line in tracer.stops.items()})


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the classes, attributes and containers of all modules at the end.

    The attributes of other objects that modules hold are restored as well.
    """
    kinds = [(module, type(module)) for module in model.modules()]
    held: list[Any] = []
    for module, _ in kinds:
        held.append(vars(module))
        for value in vars(module).values():
            is_whole = type(value) in _CONTAINERS or isinstance(value, ModuleType)
            held.append(value if is_whole else getattr(value, "__dict__", None))
    before = [(each, copy.copy(each)) for each in held if type(each) in _CONTAINERS]
    try:
        yield
    finally:
        for module, kind in kinds:
            if type(module) is not kind:
                module.__class__ = kind
        for container, content in before:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


class _Tracer(fx.Tracer):
    """A tracer that enters modules, follows the functions that they hold, and notes lines."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.stops: dict[str, str] = {}
        self.path = ""

    def graph_of(self, root: nn.Module) -> fx.Graph:
        """Return the graph of a module, empty if its code cannot be traced, see ``stops``.

        The module and the random number generators are restored. Each name of a child is a step of
        its own. A closure over the child itself cannot be followed: it would go on calling it.
        """
        cuda = {p.device for p in root.parameters() if p.device.type == "cuda"}
        with unchanged(root), torch.random.fork_rng(devices=cuda):
            self.function = root.forward
            for path, part in [*root.named_modules()]:
                for name, child in named_children(part).items():
                    if not any(child.children()):
                        twin: nn.Module = object.__new__(type(child))
                        vars(twin).update(vars(child))
                        part.add_module(name, twin)
                for name, function in held_functions(part).items():
                    vars(part)[name] = functools.partial(self.held, joined(path, name), function)
            try:
                return self.trace(root)
            except Exception as error:  # foreign code, run on symbols, can raise anything
                self.stops[""] = _line(error)
                return fx.Graph()

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Make symbols of the required arguments; the others keep their defaults."""
        symbols = []
        for parameter in inspect.signature(self.function).parameters.values():
            is_required = parameter.default is parameter.empty
            if is_required and parameter.kind <= parameter.POSITIONAL_OR_KEYWORD:
                symbols.append(self.create_proxy("placeholder", parameter.name, (), {}))
        return self.function, symbols

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note the line of the code, and the module whose code it is."""
        node = super().create_node(*args, **kwargs)
        node.meta |= {"line": _line(), "path": self.path}
        return node

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Enter modules that have code; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if has_code(m):
            outside, self.path = self.path, path
            try:
                return type(m).forward(m, *args, **kwargs)  # without hooks
            except Exception as error:  # as in graph_of()
                self.stops[path] = _line(error)
            finally:
                self.path = outside
        return self.create_proxy("call_module", path, args, kwargs)

    def held(self, path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Follow a held function that calls modules; any other is a single step."""
        before, result = len(self.graph.nodes), None
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # as in graph_of()
            self.stops[path.rpartition(".")[0]] = _line(error)
        steps = [*self.graph.nodes][before:]
        if result is not None and any(step.op == "call_module" for step in steps):
            return result
        for step in reversed(steps):
            if step.op != "get_attr":  # the tracer keeps it for the next use
                self.graph.erase_node(step)
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take conditions on data (mixed precision, empty inputs) as not met, assertions as met."""
        self.stops.setdefault(self.path, _line())
        own: Any = inspect.currentframe()
        code = own.f_back.f_back  # the code that asks, by Proxy.__bool__
        line = linecache.getline(code.f_code.co_filename, code.f_lineno)
        return line.lstrip().startswith("assert")


def _line(error: BaseException | None = None) -> str:
    """Return the last line of the model's code that runs, or that raised the error; else ""."""
    frames = traceback.walk_stack(inspect.currentframe())
    if error:
        frames = reversed([*traceback.walk_tb(error.__traceback__)])
    for frame, number in frames:
        file = frame.f_code.co_filename
        if frame.f_code is fx.Tracer.trace.__code__:
            break
        if not file.startswith(_LIBRARIES):
            return f"{Path(file).name}:{number}"
    return ""
