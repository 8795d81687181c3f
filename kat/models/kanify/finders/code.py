"""Whether a graph of ``torch.fx`` says all that the code of a module does.

A graph holds what happens to the inputs. Contexts, assignments to attributes, checkpoints, and what
the code asks of autograd or of a random number generator happen once, while it is traced, or never.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType

import torch
from torch import nn

_OPERATIONS = {
    "BEFORE_WITH", "BEFORE_ASYNC_WITH", "LOAD_SPECIAL",  # with, LOAD_SPECIAL from Python 3.14 on
    "STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL",
}  # fmt: skip
_NAMES = {"checkpoint", "checkpoint_sequential", "is_grad_enabled", "is_autocast_enabled", "random"}


def says_all(written: type[nn.Module]) -> bool:
    """Whether the code of ``forward`` has nothing that its graph would lack, as far as it shows.

    Args:
        written: the class of the module. Its methods that the code names are looked at, too;
            functions elsewhere are not.
    """
    forward = written.forward
    if not inspect.isfunction(forward) or hasattr(forward, "__wrapped__"):  # a decorator
        return False
    return not any(
        _NAMES.intersection(code.co_names)
        or any(step.opname in _OPERATIONS for step in dis.get_instructions(code))
        for code in _codes(written, forward, set())
    )


def _codes(written: type[nn.Module], function: FunctionType, seen: set[str]) -> Iterator[CodeType]:
    """The code of a method, of the functions in it, and of the methods that it names."""
    waiting = [function.__code__]
    for code in waiting:
        yield code
        waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
        for name in set(code.co_names) - seen:
            seen.add(name)
            method = inspect.getattr_static(written, name, None)
            if inspect.isfunction(method) and name not in vars(nn.Module):
                yield from _codes(written, method, seen)


def has_changed(module: nn.Module, traced: nn.Module) -> bool:
    """Whether tracing a copy of a module has changed the copy's tensors."""
    before, after = _tensors(module), _tensors(traced)
    return any(
        not tensor.is_meta and not torch.equal(tensor, after.get(name, tensor))
        for name, tensor in before.items()
    )


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers of a module and what else it has of tensors that are no parameters."""
    held = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
    return {**dict(module.named_buffers()), **held}
