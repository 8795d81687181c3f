"""The places of MLPs in a model: what is there, putting modules there and taking them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kat.models.kanify.finders.calls import (
    code_of,
    code_of_name,
    functions_of,
    write_anew,
)
from kat.models.kanify.finders.mlp import Mlp
from kat.models.kanify.finders.trace import named_children
from kat.text import listing

_FUSED_INFERENCE = {"activation_relu_or_gelu": 0, "use_nested_tensor": False}
"""The attributes by which ``nn.TransformerEncoder`` and its layers select fused code for inference,
which reads the weights and bypasses the modules, and the values that disable it."""


def put_activation(model: nn.Module, mlp: Mlp, module: nn.Module) -> list[Callable[[], None]]:
    """Puts a module in the place of an MLP's activation.

    Returns:
        The functions that take it out, to be called from last to first.
    """
    owner = model.get_submodule(mlp.owner)
    undo: list[Callable[[], None]] = []
    try:
        for name in mlp.followed:  # closures call the present activation
            holder, _, function = name.rpartition(".")
            undo += write_anew(model.get_submodule(holder), function)
        if mlp.call is not None:
            undo += write_anew(owner, mlp.code, (mlp.attribute, mlp.call))
    except BaseException:
        while undo:
            undo.pop()()
        raise
    undo.append(_set(owner, mlp.attribute, module))
    return undo + without_fused_inference(model, mlp.activation)


def without_fused_inference(model: nn.Module, name: str) -> list[Callable[[], None]]:
    """Has ``nn.TransformerEncoder`` call the modules around an attribute of this full name.

    Returns:
        The functions that undo it, to be called from last to first.
    """
    return [
        _set(around, attribute, value)
        for around in _modules_on_path(model, name)
        for attribute, value in _FUSED_INFERENCE.items()
        if attribute in vars(around)
    ]


def activation_of(model: nn.Module, mlp: Mlp) -> Any:
    """The module or function that is an MLP's activation; for a call, a module that computes it.

    Raises:
        AttributeError: the model has no such place.
    """
    owner = model.get_submodule(mlp.owner)
    if not all(code_of_name(model, name).graphs for name in mlp.followed):
        raise AttributeError(f"{listing(mlp.followed)} cannot be written anew")
    if mlp.call is None:
        return getattr(owner, mlp.attribute)
    found = code_of(owner, mlp.code).regions if mlp.code in functions_of(owner) else []
    if mlp.call >= len(found) or hasattr(owner, mlp.attribute):
        raise AttributeError(f"{mlp.owner} has no such call")
    return found[mlp.call].module(owner)


def parts_of(model: nn.Module, mlp: Mlp) -> tuple[Any, ...]:
    """The activation, or the module whose code calls it, and the two linear maps of an MLP.

    Raises:
        AttributeError: the model has no such place.
    """
    owner = model.get_submodule(mlp.owner)
    linear_maps = (model.get_submodule(name) for name in (mlp.first, mlp.second))
    return (owner if mlp.call is not None else getattr(owner, mlp.attribute), *linear_maps)


def device_and_dtype(model: nn.Module, mlp: Mlp) -> dict[str, Any]:
    """Device and dtype of the first linear map; float32 if its weights are quantized."""
    weight = next(model.get_submodule(mlp.first).parameters())
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    return {"device": weight.device, "dtype": dtype}


def _set(module: nn.Module, name: str, value: Any) -> Callable[[], None]:
    """Sets an attribute. Returns what sets it back, with children in their old order."""
    had = name in {*vars(module), *named_children(module)}
    before = getattr(module, name, None)
    setattr(module, name, value)

    def back() -> None:
        if not had or not isinstance(before, nn.Module):
            delattr(module, name)  # a function cannot replace a child
        if had:
            setattr(module, name, before)

    return back


def _modules_on_path(model: nn.Module, name: str) -> list[nn.Module]:
    """All modules that contain an attribute of this full name, the model first."""
    parts = name.split(".")[:-1]
    return [model.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1)]
