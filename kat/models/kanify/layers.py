"""Modules and their names: linear maps, other layers, experts, and what may be an activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

LISTS = (nn.ModuleList, nn.ModuleDict)
_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_NORMS = (
    nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.GroupNorm,
)  # fmt: skip
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_IDENTITIES = (nn.Identity, *DROPOUTS)
_NEVER_ACTIVATIONS = (nn.Sequential, *LISTS, *_IDENTITIES)


def joined(path: str, name: str) -> str:
    """Return the full name of an attribute of a module."""
    return f"{path}.{name}".strip(".")


def around(name: str) -> list[str]:
    """Return the full names of the modules around an attribute, the nearest first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1)]


def named_children(module: nn.Module) -> dict[str, nn.Module]:
    """Return the children of a module by name. Unlike torch's, a child with two names has both."""
    modules = module.named_modules(remove_duplicate=False)
    return {name: child for name, child in modules if name and "." not in name}


def held_functions(module: nn.Module) -> dict[str, Callable[..., Any]]:
    """Return the functions that a module has as public attributes, by name.

    Not those in the place of methods: accelerate gives a model its own ``forward`` and ``to``.
    """
    held: dict[str, Callable[..., Any]] = {}
    for name, value in vars(module).items():
        is_function = callable(value) and not isinstance(value, type)
        if is_function and not name.startswith("_") and not hasattr(type(module), name):
            held[name] = value
    return held


def may_act(module: nn.Module) -> bool:
    """Return True if a module has no parameters but single numbers, as StarReLU, or is a PReLU."""
    if any(isinstance(part, _NEVER_ACTIVATIONS) for part in module.modules()):
        return False
    tensors = [*module.parameters(), *module.buffers()]
    single = all(not is_lazy(tensor) and tensor.numel() == 1 for tensor in tensors)
    return single or isinstance(module, nn.PReLU)


def has_code(module: nn.Module) -> bool:
    """Return True if the code of a module is followed, which calls its children."""
    return any(module.children()) and linear_map(module) is None and not may_act(module)


class LinearMap(NamedTuple):
    """The widths of a linear map, and the dimension of its channels."""

    d_in: int
    d_out: int
    channel_dim: int


def linear_map(module: nn.Module) -> LinearMap | None:
    """Return the widths of a linear map, None for any other module.

    Linear maps are ``nn.Linear`` with its subclasses, other classes named ``Linear`` with a weight
    (d_out, d_in), as PyTorch Geometric's, transformers' ``Conv1D``, whose weight is (d_in, d_out),
    and convolutions of one position; lazy ones once they have weights; PEFT's layers by their base.
    """
    module = getattr(module, "base_layer", module)
    if any(map(is_lazy, module.parameters(recurse=False))):
        return None
    if isinstance(module, nn.Linear):
        return LinearMap(module.in_features, module.out_features, -1)
    if isinstance(module, _CONVOLUTIONS):
        is_single = {*module.kernel_size, *module.stride, module.groups} == {1}
        if module.transposed or not is_single:
            return None
        return LinearMap(module.in_channels, module.out_channels, 1)
    weight, name = getattr(module, "weight", None), type(module).__name__
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or name not in ("Conv1D", "Linear"):
        return None
    d_in, d_out = weight.shape if name == "Conv1D" else weight.shape[::-1]
    return LinearMap(d_in, d_out, -1)


def layer_of(module: nn.Module) -> LinearMap | None:
    """Return the channels of a linear map, a convolution or a norm of images, else None."""
    if isinstance(module, _NORMS):
        width: Any = getattr(module, "num_channels", None) or module.num_features
        return LinearMap(width, width, 1)
    if isinstance(module, _CONVOLUTIONS) and module.in_channels:  # else lazy
        return LinearMap(module.in_channels, module.out_channels, 1)
    return linear_map(module)


def leaves_channels(module: nn.Module) -> bool:
    """Return True for an identity, a dropout, and a convolution of each channel by itself."""
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == module.in_channels == module.out_channels > 1
    return isinstance(module, _IDENTITIES)


def expert_widths(module: nn.Module) -> set[tuple[int, int, int, bool]]:
    """(d_in, d_hidden, d_out, are they gated?) of experts, empty for any other module.

    Experts are a module with exactly two parameters of three dimensions: (E, k h, d) and (E, d, h),
    or both transposed; k is 2 if the experts are gated, and 1 if not. Without gates both orders
    fit, and d and h are unclear unless they are equal.
    """
    stacked = [p.shape[1:] for p in module.parameters(recurse=False) if p.ndim == 3]
    if len(stacked) != 2:
        return set()
    first, second = stacked
    found = set()
    for (out, d_in), (d_out, hidden) in ((first, second), (first[::-1], second[::-1])):
        if d_in == d_out and out in (hidden, 2 * hidden):
            found.add((d_in, hidden, d_out, out > hidden))
    return found
