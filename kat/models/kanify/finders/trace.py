"""The order in which a module's code calls its children, by symbolic tracing.

``torch.fx`` runs ``forward`` on symbols. It runs on a copy that shares the parameters. In the copy,
functions held as attributes are modules, so that they become steps with a name too; one that calls
modules, as a lambda over the module's children does, is followed. The model itself is never
touched.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<eval_with_key>")
"""The beginnings of the names of files that are no code of the model."""

LINE, THROUGH = "line", "through"
"""Keys in ``node.meta``: the line of the code, "" if unknown; the held functions that led there."""


CODE = "_kat_code"
"""The attribute of a class with functions that were written anew."""


def written_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, as it was written."""
    written = getattr(type(module), CODE, None)
    return written.base if written else type(module)


def written_names(module: nn.Module) -> list[str]:
    """The names of the functions of a module that were written anew."""
    written = getattr(type(module), CODE, None)
    return list(dict.fromkeys(name for name, _ in written.graphs)) if written else []


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """The children of a module by name. Unlike torch's, a child with two names has both."""
    modules = module.named_modules(remove_duplicate=False)
    return {name: child for name, child in modules if name and "." not in name}


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """The functions that a module with children has as public attributes, by name."""
    if not any(module.children()):
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not isinstance(value, type) and not name.startswith("_")
        and name != "forward"
    }  # fmt: skip


def trace(
    module: nn.Module,
    is_step: Callable[[nn.Module], bool],
    stops: dict[str, str] | None = None,
    name: str = "forward",
) -> fx.Graph | None:
    """The graph of a module's code and of the modules in it, None if it cannot be traced.

    Conditions on data count as not met, and arguments with defaults have these: it shows what
    happens to tensors, and cannot be run in the place of the code.

    Args:
        module: the module.
        is_step: which modules with children are single steps; childless ones always are.
        stops: gets the lines at which tracing fails or code depends on data, by the modules' names.
        name: ``forward``, or a function that the module holds.
    """
    stops = {} if stops is None else stops
    skeleton, paths = skeleton_of(module)
    tracer = _Loose(is_step, stops, skeleton, paths, name)
    try:
        return tracer.trace_quietly()
    except Exception as error:  # foreign code, run on symbols, can raise anything
        stops[""] = line_of_error(error)
        return None


def skeleton_of(module: nn.Module) -> tuple[nn.Module, dict[nn.Module, str]]:
    """A copy of all modules that shares the parameters, and the paths of the modules themselves."""
    skeleton = copy_of(module)
    for name, child in named_children(module).items():
        skeleton.add_module(name, skeleton_of(child)[0])
    written = {name: getattr(module, name) for name in written_names(module) if name != "forward"}
    for name, function in {**held_functions(module), **written}.items():
        setattr(skeleton, name, HeldFunction(function))
    return skeleton, {part: path for path, part in module.named_modules()}


def copy_of(module: nn.Module) -> nn.Module:
    """A copy of one module with the same parameters and children, and the code as written."""
    copied: nn.Module = object.__new__(written_class(module))
    state = {name: _own(value) for name, value in vars(module).items() if name != "forward"}
    vars(copied).update(state)
    return copied


def _own(value: Any) -> Any:
    """A copy of what code changes in place: lists, sets, dictionaries and their tensors.

    Parameters are kept.
    """
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({k: _own(v) for k, v in value.items() if isinstance(v, torch.Tensor)})
        return copied
    if not isinstance(value, torch.Tensor):
        return copy.copy(value) if isinstance(value, list | set) else value
    if isinstance(value, nn.Parameter) or nn.parameter.is_lazy(value):
        return value
    return value.detach().clone()


def line_of_error(error: BaseException) -> str:
    """The last line of the model's code in a traceback, as file.py:12, "" if there is none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [_line(frame.f_code, number) for frame, number in frames]
    return next(filter(None, reversed(lines)), "")


def _line(code: CodeType, number: int) -> str:
    name = code.co_filename
    return "" if name.startswith(_LIBRARIES) else f"{Path(name).name}:{number}"


class HeldFunction(nn.Module):
    """Stands for a function that a module holds; never called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function


class Tracer(fx.Tracer):
    """A tracer of one function of a module, that notes lines.

    Args:
        skeleton, paths: of :func:`skeleton_of`.
        name: of the function.
    """

    def __init__(
        self, skeleton: nn.Module, paths: dict[nn.Module, str], name: str = "forward"
    ) -> None:
        super().__init__()
        self.skeleton = skeleton
        self.paths = paths
        self.name = name
        self.through: tuple[str, ...] = ()

    def trace_quietly(self) -> fx.Graph:
        """The graph; the state of the random number generators is restored."""
        devices = {parameter.device for parameter in self.skeleton.parameters()}
        with torch.random.fork_rng(devices=[d for d in devices if d.type == "cuda"]):
            return self.trace(self.skeleton)

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Makes symbols of the required arguments; the others keep their defaults."""
        held = getattr(self.root, self.name)
        function = held.function if isinstance(held, HeldFunction) else held
        symbols = [
            self.create_proxy("placeholder", parameter.name, (), {})
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
            and parameter.default is parameter.empty
        ]
        return function, symbols

    def path_of_module(self, mod: nn.Module) -> str:
        """The path of a module of the copy, or of the model, which closures hold."""
        path = self.paths.get(mod)
        return super().path_of_module(mod) if path is None else path

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Notes the line of the code, and the held functions that are followed."""
        node = super().create_node(*args, **kwargs)
        node.meta |= {LINE: self.line(), THROUGH: self.through}
        return node

    def line(self) -> str:
        """The line of the model's code that runs now."""
        frame, line = inspect.currentframe(), ""
        while frame and not line and frame.f_code is not Tracer.trace_quietly.__code__:
            line, frame = _line(frame.f_code, frame.f_lineno), frame.f_back
        return line


class _Loose(Tracer):
    def __init__(
        self, is_step: Callable[[nn.Module], bool], stops: dict[str, str], *args: Any
    ) -> None:
        super().__init__(*args)
        self.is_step = is_step
        self.stops = stops
        self.path = ""

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Enters modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        m = self.root.get_submodule(path)
        if isinstance(m, HeldFunction):
            return self._follow(m, path, args, kwargs)
        if any(m.children()) and not self.is_step(m):
            outside, self.path = self.path, path
            try:
                return m.forward(*args, **kwargs)  # without hooks, unlike the given forward
            except Exception as error:  # as in trace()
                self.stops[path] = line_of_error(error)
            finally:
                self.path = outside
        return self.create_proxy("call_module", path, args, kwargs)

    def _follow(
        self, held: HeldFunction, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Runs a held function on symbols; one that calls no module is a single step."""
        before, outside = len(self.graph.nodes), self.through
        self.through = (*outside, path)
        result, failed = None, ""
        try:
            result = held.function(*args, **kwargs)
        except Exception as error:  # as in trace()
            failed = line_of_error(error) or "?"
        self.through = outside
        steps = list(self.graph.nodes)[before:]
        calls_modules = any(node.op == "call_module" for node in steps)
        if calls_modules and not failed:
            return result
        if calls_modules:
            self.stops[path] = failed
        for node in reversed(steps):
            if node.op != "get_attr":  # the tracer keeps it for the next use
                self.graph.erase_node(node)
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Takes conditions on data (mixed precision, empty inputs) as not met."""
        self.stops.setdefault(self.path, self.line())
        return False
