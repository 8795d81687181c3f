"""The order in which a module's code calls its children, by symbolic tracing.

``torch.fx`` runs ``forward`` on symbols. It runs on a copy that shares the parameters. In the copy,
functions held as attributes are modules, so that they become steps with a name too. The model
itself is never touched.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from kat.models.kanify.finders.code import has_changed, says_all

CODE = "_kat_code"
"""The attribute of a class that was derived to write the code of a module anew."""


def written_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, as it was written."""
    code = getattr(type(module), CODE, None)
    return code.base if code else type(module)


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


def trace(module: nn.Module, is_step: Callable[[nn.Module], bool]) -> fx.Graph | None:
    """The graph of a module's ``forward`` and of the modules in it, None if it cannot be traced.

    Conditions on data count as not met, and arguments with defaults have these: it shows what
    happens to tensors, and cannot be run in the place of the code.

    Args:
        module: the module.
        is_step: which modules with children are single steps; childless ones always are.
    """
    return _traced(_Loose(is_step), _skeleton(module))


def trace_own(module: nn.Module, training: bool) -> fx.Graph | None:
    """The graph of a module's own ``forward``, with its children as steps.

    It does the same as the code with the present values of the module's attributes that are no
    tensors. None if the code depends on data, has optional arguments, uses tensors other than the
    module's, is TorchScript, or does what a graph does not say
    (:mod:`kat.models.kanify.finders.code`).

    Args:
        module: the module.
        training: the mode of the module while it runs.
    """
    if isinstance(module, torch.jit.ScriptModule) or not says_all(written_class(module)):
        return None
    parameters = list(inspect.signature(written_class(module).forward).parameters.values())
    if any(p.kind != p.POSITIONAL_OR_KEYWORD or p.default is not p.empty for p in parameters):
        return None
    skeleton = _skeleton(module).train(training)
    graph = _traced(_Own(), skeleton, may_draw=False)
    return None if has_changed(module, skeleton) else _of_its_tensors(module, graph)


def trace_loosely(module: nn.Module) -> fx.Graph | None:
    """As :func:`trace`, of a module's own ``forward``, with its children as steps."""
    return _of_its_tensors(module, trace(module, lambda child: True))


def _traced(tracer: fx.Tracer, skeleton: nn.Module, may_draw: bool = True) -> fx.Graph | None:
    """The graph; the state of the random number generators is restored.

    None where the code fails, and unless ``may_draw`` also where it draws random numbers itself.
    """
    devices = {parameter.device for parameter in skeleton.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        before = torch.get_rng_state()
        try:
            graph = tracer.trace(skeleton)
        except Exception:  # foreign code, run on symbols, can raise anything
            return None
        return graph if may_draw or torch.equal(before, torch.get_rng_state()) else None


def _of_its_tensors(module: nn.Module, graph: fx.Graph | None) -> fx.Graph | None:
    """A graph, None if it uses tensors other than the module's."""
    names = [str(node.target) for node in graph.nodes if node.op == "get_attr"] if graph else []
    return graph if all(_has(module, name) for name in names) else None


def _has(module: nn.Module, name: str) -> bool:
    path, _, attribute = name.rpartition(".")
    try:
        return hasattr(module.get_submodule(path), attribute)
    except AttributeError:
        return False


class _Function(nn.Module):
    """Stands for a function that a module holds; never called."""


def _skeleton(module: nn.Module) -> nn.Module:
    """A copy of all modules that shares the parameters."""
    skeleton = copy_of(module)
    for name, child in named_children(module).items():
        skeleton.add_module(name, _skeleton(child))
    for name in held_functions(module):
        setattr(skeleton, name, _Function())
    return skeleton


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


class _Own(fx.Tracer):
    """Every child is a step; a condition on data ends the trace, as in ``fx.Tracer``."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


class _Loose(fx.Tracer):
    def __init__(self, is_step: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.is_step = is_step

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Makes symbols of the required arguments; the others keep their defaults."""
        parameters = list(inspect.signature(root_fn).parameters.values())[1:]
        needed = [
            p for p in parameters if p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        ]
        symbols = [self.create_proxy("placeholder", p.name, (), {}) for p in needed]
        return root_fn, [self.root, *symbols]

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Enters modules with children; one that cannot be traced is a single step."""
        path = self.path_of_module(m)
        if any(m.children()) and not self.is_step(m):
            try:
                return m.forward(*args, **kwargs)  # without hooks, unlike the given forward
            except Exception:  # as in _traced()
                pass
        return self.create_proxy("call_module", path, args, kwargs)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Takes conditions on data (mixed precision, empty inputs) as not met."""
        return False
