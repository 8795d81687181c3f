"""Linear maps of the channels, and experts with many in one tensor, as in transformers' Mixtral."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kat.models.kanify.finders.trace import skeleton_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LinearMap(NamedTuple):
    """The widths of a linear map, and the dimension of its channels."""

    d_in: int
    d_out: int
    channel_dim: int


def linear_map(module: nn.Module) -> LinearMap | None:
    """What a linear map maps, None for any other module.

    Linear maps are ``nn.Linear`` with its subclasses, other classes named ``Linear`` with a weight
    (d_out, d_in), as PyTorch Geometric's, transformers' ``Conv1D``, whose weight is (d_in, d_out),
    and convolutions of one position; lazy ones once they have weights.
    """
    if any(map(is_lazy, module.parameters(recurse=False))):
        return None
    if isinstance(module, nn.Linear):
        return LinearMap(module.in_features, module.out_features, -1)
    if isinstance(module, CONVOLUTIONS):
        ones = (1,) * len(module.kernel_size)
        if (module.kernel_size, module.stride, module.groups) != (ones, ones, 1):
            return None
        return LinearMap(module.in_channels, module.out_channels, -1 - len(ones))
    weight, name = getattr(module, "weight", None), type(module).__name__
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    if name == "Conv1D":
        return LinearMap(weight.shape[0], weight.shape[1], -1)
    return LinearMap(weight.shape[1], weight.shape[0], -1) if name == "Linear" else None


def expert_widths(module: nn.Module) -> tuple[int, int, int, bool] | None:
    """(d_in, d_hidden, d_out, whether they are gated) of experts, None for any other module.

    Experts are a module with exactly two parameters of three dimensions: (E, k h, d) and (E, d, h),
    or both transposed; k is 2 if the experts are gated, and 1 if not.
    """
    stacked = [p.shape for p in module.parameters(recurse=False) if p.ndim == 3]
    if len(stacked) != 2 or stacked[0][0] != stacked[1][0]:
        return None
    for (out, d_in), (d_out, hidden) in (
        (stacked[0][1:], stacked[1][1:]),
        (stacked[0][:0:-1], stacked[1][:0:-1]),  # transposed
    ):
        if d_in == d_out and out in (hidden, 2 * hidden):
            return d_in, hidden, d_out, out == 2 * hidden
    return None


def is_depthwise(module: nn.Module) -> bool:
    """Whether a module is a convolution of each channel by itself."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups == module.in_channels == module.out_channels > 1
    )


@torch.no_grad()
def channel_weights(linear: nn.Module) -> torch.Tensor | None:
    """|W e_c|^2 for each input channel c of a linear map: (d_in,), in float64, on its device.

    It is computed from outputs, as the weights may be transposed or quantized. The bias is zero
    meanwhile, in a copy: in low precision W e_c would be lost beside a large one.

    Returns:
        The weights, or None for a module of other maps, as experts are.
    """
    mapped, weight = linear_map(linear), linear.weight if hasattr(linear, "weight") else None
    if mapped is None:
        return None
    assert isinstance(weight, torch.Tensor)
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    without_bias = skeleton_of(linear)
    bias = dict(linear.named_parameters(recurse=False)).get("bias")
    if bias is not None:
        zeros = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
        without_bias.register_parameter("bias", zeros)
    unit = torch.eye(mapped.d_in, dtype=dtype, device=weight.device)
    unit = unit.reshape(*unit.shape, *(1,) * (-1 - mapped.channel_dim))  # one position
    zero = without_bias.forward(torch.zeros_like(unit[:1]))
    columns = [(without_bias.forward(rows) - zero).flatten(1) for rows in unit.split(1024)]
    return torch.cat([column.double().square().sum(-1) for column in columns])
