"""The names of ``ikan.GroupKAN``.

Source: https://github.com/lgy112112/Efficient-KAN-in-Chinese
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from kat.compat.kat_rational import KAT_Group

__all__ = ["GroupKAN", "GroupKANLinear"]


class GroupKANLinear(nn.Sequential):
    """F(x), dropout and a linear map: the children act, drop and linear.

    Args:
        in_features, out_features: widths.
        bias: of the linear map.
        act_mode: the initial function, one of :data:`kat.compat.MODES`.
        drop: dropout rate.
        device: ignored.
        num_groups: groups into which in_features is divided.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        act_mode: str = "gelu",
        drop: float = 0.0,
        *,
        device: Any = None,
        num_groups: int = 8,
    ) -> None:
        act, linear = KAT_Group(num_groups, act_mode), nn.Linear(in_features, out_features, bias)
        super().__init__(OrderedDict(act=act, drop=nn.Dropout(drop), linear=linear))


class GroupKAN(nn.Module):
    """Layers of :class:`GroupKANLinear`, from each width to the next.

    Args:
        layers_hidden: all widths, that of the input first.
        act_mode, drop, bias, device, num_groups: of each layer.
    """

    def __init__(
        self,
        layers_hidden: Sequence[int],
        act_mode: str = "gelu",
        drop: float = 0.0,
        bias: bool = True,
        *,
        device: Any = None,
        num_groups: int = 8,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for before, after in pairwise(layers_hidden):
            layer = GroupKANLinear(before, after, bias, act_mode, drop, num_groups=num_groups)
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., layers_hidden[0]) to (..., layers_hidden[-1])."""
        return self.layers(x)
