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
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

LINE, THROUGH = "line", "through"
"""Keys in ``node.meta``: the line of the code, "" if unknown; the held functions that led there."""
DEVICES = ("cpu", "cuda")
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<eval_with_key>")
"""The beginnings of the names of files that are no code of the model."""
_CONTAINERS = (dict, OrderedDict, list, set)


def joined(path: str, name: str) -> str:
    """The full name of an attribute of a module."""
    return f"{path}.{name}".strip(".")


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """The children of a module by name. Unlike torch's, a child with two names has both."""
    modules = module.named_modules(remove_duplicate=False)
    return {name: child for name, child in modules if name and "." not in name}


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The functions that a module with children has as public attributes, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, type)
        and not name.startswith("_") and name != "forward" and any(module.children())
    }  # fmt: skip


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the classes, attributes and containers of all modules at the end."""
    before = [(module, type(module), {**vars(module)}) for module in model.modules()]
    inside = [(container, copy.copy(container)) for container in _containers(model)]
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


def _containers(model: nn.Module) -> list[Any]:
    """The attributes that are containers, all in these, and the attributes of plain objects."""
    values = [value for module in model.modules() for value in vars(module).values()]
    objects = (v for v in values if not isinstance(v, torch.Tensor | nn.Module | type))
    inside = (v if type(v) in _CONTAINERS else getattr(v, "__dict__", None) for v in objects)
    found = {id(container): container for container in inside if container is not None}
    queue = [*found.values()]
    while queue:
        value = queue.pop()
        parts = value.values() if isinstance(value, dict) else value
        new = {id(p): p for p in parts if type(p) in _CONTAINERS and id(p) not in found}
        found |= new
        queue += new.values()
    return [*found.values()]


def identities(model: nn.Module) -> list[list[int]]:
    """The ids of the attributes of all modules, and of what is in containers."""
    inside = [*(vars(module) for module in model.modules()), *_containers(model)]
    return [[*map(id, c.values() if isinstance(c, dict) else c)] for c in inside]


class NotWhole(Exception):
    """The reason why a graph lacks a part of what the code does."""


class Tracer(fx.Tracer):
    """A tracer of one function of a module, that notes lines.

    Args:
        name: ``forward``, or a function that the module holds.
        is_step: which modules with children are single steps; all others are entered, and held
            functions that call modules are followed. By default each child is a step, and each held
            function.
        strict: a condition on data, or a change of the mode, ends the trace. Else conditions count
            as not met.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        name: str = "forward",
        is_step: Callable[[nn.Module], bool] | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.is_step = is_step
        self.strict = strict
        self.stops: dict[str, str] = {}
        """The lines at which tracing failed or code depends on data, by the modules' names."""
        self.path = ""
        self.through: tuple[str, ...] = ()
        self.mode: tuple[Any, ...] = ()

    def graph_or_none(self, root: nn.Module) -> fx.Graph | None:
        """The graph, None if the code cannot be traced: then the line is in ``stops``.

        The module and the random number generators are restored.
        """
        cuda = {p.device for p in root.parameters() if p.device.type == "cuda"}
        with unchanged(root), torch.random.fork_rng(devices=cuda):
            try:
                self.prepare(root)
                return self.trace(root)
            except Exception as error:  # foreign code, run on symbols, can raise anything
                self.stops[""] = line_of_error(error)
                return None

    def prepare(self, root: nn.Module) -> None:
        """Change a module, so that each name of a child, and each held function, is a step."""
        self.function, seen = getattr(root, self.name), set()
        for path, part in [*root.named_modules()]:
            for name, child in named_children(part).items():
                if child in seen and not any(child.children()):
                    twin: nn.Module = object.__new__(type(child))
                    vars(twin).update(vars(child))
                    part.add_module(name, twin)
                seen.add(child)
            for name, function in held_functions(part).items():
                vars(part)[name] = functools.partial(self.held, joined(path, name), function)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Make symbols of the required arguments; the others keep their defaults."""
        self.mode = _mode()
        return self.function, [
            self.create_proxy("placeholder", parameter.name, (), {})
            for parameter in inspect.signature(self.function).parameters.values()
            if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
            and parameter.default is parameter.empty
        ]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note the line of the code, and the held functions that are followed."""
        if self.strict and _mode() != self.mode:
            raise NotWhole("it changes whether gradients or mixed precision are on")
        node = super().create_node(*args, **kwargs)
        node.meta |= {LINE: self._line(), THROUGH: self.through}
        return node

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Enter modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if self.is_step and any(m.children()) and not self.is_step(m):
            outside, self.path = self.path, path
            try:
                return type(m).forward(m, *args, **kwargs)  # without hooks
            except Exception as error:  # as in graph_or_none()
                self.stops[path] = line_of_error(error)
            finally:
                self.path = outside
        return self.create_proxy("call_module", path, args, kwargs)

    def held(self, path: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Follow a held function that calls modules; any other is a single step."""
        if self.is_step:
            before, outside, line = len(self.graph.nodes), self.through, None
            self.through = (*outside, path)
            try:
                result = function(*args, **kwargs)
            except Exception as error:  # as in graph_or_none()
                line = line_of_error(error)
            finally:
                self.through = outside
            steps = [*self.graph.nodes][before:]
            if any(step.op == "call_module" for step in steps):
                if line is None:
                    return result
                self.stops[path] = line
            for step in reversed(steps):
                if step.op != "get_attr":  # the tracer keeps it for the next use
                    self.graph.erase_node(step)
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Take conditions on data (mixed precision, empty inputs) as not met."""
        if self.strict:
            return super().to_bool(obj)
        self.stops.setdefault(self.path, self._line())
        return False

    def _line(self) -> str:
        frame, line = inspect.currentframe(), ""
        while frame and not line and frame.f_code is not fx.Tracer.trace.__code__:
            line, frame = _line_of(frame.f_code, frame.f_lineno), frame.f_back
        return line


def line_of_error(error: BaseException) -> str:
    """The last line of the model's code in a traceback, as file.py:12, "" if there is none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [_line_of(frame.f_code, number) for frame, number in frames]
    return next(filter(None, reversed(lines)), "")


def _line_of(code: CodeType, number: int) -> str:
    name = code.co_filename
    return "" if name.startswith(_LIBRARIES) else f"{Path(name).name}:{number}"


def _mode() -> tuple[Any, ...]:
    autocast = [(torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in DEVICES]
    return torch.is_grad_enabled(), *autocast
