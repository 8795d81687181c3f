"""Symbolic traces of a model's code by ``torch.fx``.

The code runs on symbols, in the model itself, which is restored afterwards. A trace that enters the
children of a module shows what happens to its tensors.
"""

from __future__ import annotations

import copy
import functools
import inspect
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import fx, nn

LINE, PATH = "line", "path"
"""Keys in ``node.meta``: the line of the code, "" if unknown; the name of the module whose code it
is."""
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<eval_with_key>")
"""The beginnings of the names of files that are no code of the model."""
_CONTAINERS = (dict, OrderedDict, list, set)
_LEFT_OUT = (torch.Tensor, type, ModuleType)
"""Values whose attributes a trace does not change."""


def joined(path: str, name: str) -> str:
    """Return the full name of an attribute of a module."""
    return f"{path}.{name}".strip(".")


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the children of a module by name. Unlike torch's, a child with two names has both."""
    modules = module.named_modules(remove_duplicate=False)
    return {name: child for name, child in modules if name and "." not in name}


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """Return the functions that a module with children has as public attributes, by name."""
    held: dict[str, Callable[..., Any]] = {}
    for name, value in vars(module).items():
        is_function = callable(value) and not isinstance(value, type)
        if is_function and not name.startswith("_") and name != "forward":
            held[name] = value
    return held if any(module.children()) else {}


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the classes, attributes and containers of all modules at the end.

    The attributes of other objects that modules hold are restored as well.
    """
    before = [(module, type(module), {**vars(module)}) for module in model.modules()]
    inside: list[tuple[Any, Any]] = []
    for _, _, own in before:
        for value in own.values():
            is_object = hasattr(value, "__dict__") and not isinstance(value, _LEFT_OUT)
            container = vars(value) if is_object and type(value) not in _CONTAINERS else value
            if type(container) in _CONTAINERS:
                inside.append((container, copy.copy(container)))
    try:
        yield
    finally:
        for module, kind, own in before:
            if type(module) is not kind:
                module.__class__ = kind
            vars(module).clear()
            vars(module).update(own)
        for container, content in inside:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(content)


class Tracer(fx.Tracer):
    """A tracer that enters modules, follows the functions that they hold, and notes lines.

    Args:
        is_step: which modules with children are single steps.
    """

    proxy_buffer_attributes = True

    def __init__(self, is_step: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.is_step = is_step
        self.stops: dict[str, str] = {}
        """The lines at which tracing failed or code depends on data, by the modules' names."""
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
                self.stops[""] = line_of_error(error)
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
        node.meta |= {LINE: self._line(), PATH: self.path}
        return node

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Enter modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if any(m.children()) and not self.is_step(m):
            outside, self.path = self.path, path
            try:
                return type(m).forward(m, *args, **kwargs)  # without hooks
            except Exception as error:  # as in graph_of()
                self.stops[path] = line_of_error(error)
            finally:
                self.path = outside
        return self.create_proxy("call_module", path, args, kwargs)

    def held(self, path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Follow a held function that calls modules; any other is a single step."""
        before, result = len(self.graph.nodes), None
        try:
            result = function(*args, **kwargs)
        except Exception as error:  # as in graph_of()
            self.stops[path.rpartition(".")[0]] = line_of_error(error)
        steps = [*self.graph.nodes][before:]
        if result is not None and any(step.op == "call_module" for step in steps):
            return result
        for step in reversed(steps):
            if step.op != "get_attr":  # the tracer keeps it for the next use
                self.graph.erase_node(step)
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take conditions on data (mixed precision, empty inputs) as not met."""
        self.stops.setdefault(self.path, self._line())
        return False

    def _line(self) -> str:
        frame, line = inspect.currentframe(), ""
        while frame and not line and frame.f_code is not fx.Tracer.trace.__code__:
            line, frame = line_of(frame.f_code, frame.f_lineno), frame.f_back
        return line


def line_of_error(error: BaseException) -> str:
    """Return the last line of the model's code in a traceback, as file.py:12, else ""."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line_of(frame.f_code, number) for frame, number in frames]
    return next(filter(None, reversed(lines)), "")


def line_of(code: CodeType, number: int) -> str:
    """Return a line of the model's code, as file.py:12, "" for other code."""
    name = code.co_filename
    return "" if name.startswith(_LIBRARIES) else f"{Path(name).name}:{number}"
