"""The order in which a module's code calls its children, by symbolic tracing.

``torch.fx`` runs ``forward`` on symbols. It runs on a copy that shares the parameters. In the copy,
functions held as attributes are modules, so that they become steps with a name too; one that calls
modules, as a lambda over the module's children does, is followed, as a copy that holds the modules
of the copy. The model itself is never touched.
"""

from __future__ import annotations

import copy
import dis
import functools
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType
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
    tracer = _Loose(is_step, stops, skeleton_of(module), name)
    try:
        return tracer.trace_quietly()
    except Exception as error:  # foreign code, run on symbols, can raise anything
        stops[""] = line_of_error(error)
        return None


def skeleton_of(module: nn.Module) -> nn.Module:
    """A copy of all modules that shares the parameters, with the code as written."""
    parts = dict(module.named_modules(remove_duplicate=False))
    copied = {path: object.__new__(written_class(part)) for path, part in parts.items()}
    # A module with two names has two copies: the first stands for it elsewhere.
    known = _Copies({id(parts[path]): copied[path] for path in reversed(parts)})
    for path, part in parts.items():
        new, held = copied[path], held_functions(part)
        state = {name: known.of(v) for name, v in vars(part).items() if name not in held}
        state.pop("forward", None)
        vars(new).update(state)
        for name, function in held.items():
            own = _Copies(known.copies)
            new.add_module(name, HeldFunction(own.of(function), own.are_all))
        for name in written_names(part):
            if name != "forward":
                code = type(getattr(part, CODE).graphs[name, part.training]).forward
                new.add_module(name, HeldFunction(MethodType(code, new), True))
        if path:
            parent, _, name = path.rpartition(".")
            copied[parent].add_module(name, new)
    return copied[""]


def copy_of_held(module: nn.Module, name: str) -> Callable[..., Any]:
    """A copy of a function that a module holds, with copies of the modules in it."""
    held = getattr(skeleton_of(module), name)
    assert isinstance(held, HeldFunction)
    return held.function


class _Copies:
    """Copies of what modules and functions hold, with copies of the modules in it.

    Lists, sets, dictionaries and tensors are copied because code changes them in place. Parameters
    are kept. So are functions of a file; lambdas and closures are copied.

    Args:
        copies: of modules, tensors and functions by the ids of these.
    """

    def __init__(self, copies: dict[int, Any]) -> None:
        self.copies = dict(copies)
        self.are_all = True
        """False if a module was found that has no copy, or whose copy could not be put there."""

    def of(self, value: Any) -> Any:
        """The copy of a value."""
        if id(value) in self.copies:
            return self.copies[id(value)]
        match value:
            case nn.Module():
                self.are_all = False
            case nn.Parameter():
                pass
            case torch.Tensor() if not nn.parameter.is_lazy(value):
                return self.copies.setdefault(id(value), value.detach().clone())
            case FunctionType() if "<" in value.__qualname__:
                return self._of_function(value)
            case MethodType():
                return MethodType(self.of(value.__func__), self.of(value.__self__))
            case functools.partial():
                keywords = self.of(value.keywords)
                return functools.partial(self.of(value.func), *self.of(value.args), **keywords)
            case dict():
                copied = copy.copy(value)
                copied.update({key: self.of(item) for key, item in value.items()})
                return copied
            case list() | set() | tuple() if type(value) in (list, set, tuple):
                return type(value)(map(self.of, value))
            case object(__dict__=attributes) if not isinstance(value, type):
                self.are_all &= not any(isinstance(v, nn.Module) for v in attributes.values())
        return value

    def _of_function(self, function: FunctionType) -> FunctionType:
        code, cells = function.__code__, [CellType() for _ in function.__closure__ or ()]
        names = {**function.__globals__}
        copied = FunctionType(code, names, function.__name__, closure=tuple(cells))
        self.copies[id(function)] = copied  # it may be in a cell of its own
        copied.__defaults__ = self.of(function.__defaults__)
        copied.__kwdefaults__ = self.of(function.__kwdefaults__)
        vars(copied).update(vars(function))
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            if original != CellType():  # it has a value
                cell.cell_contents = self.of(original.cell_contents)
        names |= {name: self.of(names[name]) for name in _globals_of(code) & names.keys()}
        return copied


@functools.cache
def _globals_of(code: CodeType) -> frozenset[str]:
    """The names of the globals that a function uses, and the functions in it."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inside = (part for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(names).union(*map(_globals_of, inside))


def line_of_error(error: BaseException) -> str:
    """The last line of the model's code in a traceback, as file.py:12, "" if there is none."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [_line(frame.f_code, number) for frame, number in frames]
    return next(filter(None, reversed(lines)), "")


def _line(code: CodeType, number: int) -> str:
    name = code.co_filename
    return "" if name.startswith(_LIBRARIES) else f"{Path(name).name}:{number}"


class HeldFunction(nn.Module):
    """Stands for a function that a module holds; never called.

    Args:
        function: its copy.
        is_whole: False if the copy may still hold modules that are no copies.
    """

    def __init__(self, function: Callable[..., Any], is_whole: bool) -> None:
        super().__init__()
        self.function = function
        self.is_whole = is_whole


class NotWhole(Exception):
    """Why a graph does not say all that the code does."""


class Tracer(fx.Tracer):
    """A tracer of one function of a module, that notes lines.

    Args:
        skeleton: of :func:`skeleton_of`.
        name: of the function.
    """

    def __init__(self, skeleton: nn.Module, name: str = "forward") -> None:
        super().__init__()
        self.skeleton = skeleton
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
        if isinstance(held, HeldFunction) and not held.is_whole:
            raise NotWhole("it holds modules of other modules or in objects")
        function = held.function if isinstance(held, HeldFunction) else held
        symbols = [
            self.create_proxy("placeholder", parameter.name, (), {})
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind <= parameter.POSITIONAL_OR_KEYWORD
            and parameter.default is parameter.empty
        ]
        return function, symbols

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
        if not held.is_whole:
            self.stops.setdefault(self.path, self.line())
            return self.create_proxy("call_module", path, args, kwargs)
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
