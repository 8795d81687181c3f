"""Counting hooks, by the handles that registering gives."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from kat.nn import register_grkan_hook


def forward_hooks(module: nn.Module) -> int:
    """Count the forward hooks of a module."""
    return _others(module.register_forward_hook)


def forward_pre_hooks(module: nn.Module) -> int:
    """Count the forward pre-hooks of a module."""
    return _others(module.register_forward_pre_hook)


def global_forward_hooks() -> int:
    """Count the forward hooks and pre-hooks on all modules of the process."""
    return _others(register_module_forward_hook) + _others(register_module_forward_pre_hook)


def grkan_hooks() -> int:
    """Count the hooks on all GR-KAN layers of the process."""
    return _others(register_grkan_hook)


def _others(register: Callable[[Callable[..., None]], RemovableHandle]) -> int:
    """Count the hooks in the place where this function registers one."""
    handle = register(lambda *_: None)
    hooks = handle.hooks_dict_ref()
    handle.remove()
    return len(hooks or ())
