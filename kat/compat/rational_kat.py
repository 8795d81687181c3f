"""The names of FlashKAT's ``rational_kat``.

Source: https://github.com/OSU-STARLAB/FlashKAT
"""

from __future__ import annotations

from typing import Any

from torch import nn

from kat.compat.kat_rational import KAT_Group, KAT_Group_Torch, RationalTriton1DGroup, preset_of
from kat.errors import InputError
from kat.nn import GroupRational, Share

__all__ = ["FlashKAT_Group", "KAT_Group", "KAT_Group_Torch", "RationalTriton1DGroup"]


class FlashKAT_Group(GroupRational):
    """:class:`kat.GroupRational` with FlashKAT's arguments and names of parameters, for (..., C).

    They are ``numerator_v`` (num_groups, m) and ``denominator_v`` (den_groups, n).

    Args:
        in_features: C.
        num_groups, den_groups: numbers of numerators and of denominators; 0 or less: C.
        m, n: numbers of coefficients of a numerator, a_0 included, and of a denominator.
        mode: the initial function, one of :data:`kat.compat.MODES`.
        device: ignored; the backend follows the device of the input.
        poly_order: the degrees (m - 1, n), in the place of m and n.

    Raises:
        InputError: two numbers of groups that differ, neither of them 1.
    """

    def __init__(
        self,
        in_features: int,
        num_groups: int = 1,
        den_groups: int = 8,
        m: int = 6,
        n: int = 4,
        mode: str = "gelu",
        device: Any = None,
        poly_order: tuple[int, int] | None = None,
    ) -> None:
        numerators = num_groups if num_groups > 0 else in_features
        denominators = den_groups if den_groups > 0 else in_features
        share: Share = "none"
        if numerators != denominators:
            share = "numerator" if numerators == 1 else "denominator"
            if min(numerators, denominators) > 1:
                raise InputError("num_groups and den_groups must be equal, or one of them 1")
        super().__init__(
            max(numerators, denominators),
            poly_order or (m - 1, n),
            preset_of(mode),
            share=share,
            num_channels=in_features,
        )

    weight_numerator = property(lambda self: self.numerator_v)
    weight_denominator = property(lambda self: self.denominator_v)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Register a parameter of :class:`kat.GroupRational` by FlashKAT's name."""
        super().register_parameter(f"{name.removeprefix('weight_')}_v", param)
