"""The names of the authors' ``kat_rational``, whose functions are those of its GPU kernels.

Source: https://github.com/Adamdad/rational_kat_cu
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from kat.errors import unknown
from kat.nn import GroupRational, preset
from kat.ops import rational

__all__ = [
    "KAT_Group", "KAT_Group2D", "KAT_Group_Torch", "RationalTriton1DGroup", "RationalTriton2D",
    "Rational_CUDA_A_1DGroup", "SharedDenKAN", "rational_1dgroup", "rational_fwd",
    "rational_fwd_optimized", "rational_fwd_triton", "rational_fwd_triton_2d",
]  # fmt: skip

_SAME = ("identity", "leaky_relu", "tanh", "sigmoid", "relu", "gelu", "swish")
MODES = {**dict(zip(_SAME, _SAME, strict=True)), "gelu_old": "gelu"}
"""The authors' initialization modes, and the presets that stand for them."""

_OTHER_FUNCTION = (
    "kat.compat computes the function of the authors' GPU kernels; for x < 0 their CPU code, which"
    " this call names, computes another one, so weights trained with it give other outputs here"
)


def group_rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    group: int = 1,
    m: int | None = None,
    n: int | None = None,
) -> Tensor:
    """F(x) by groups of the last dimension: :func:`kat.rational` with the authors' arguments.

    Args:
        x: (..., C).
        numerator: (group, m), its flat coefficients, or (1, m) for one numerator in all groups.
        denominator: (group, n), or flat.
        group: number of groups.
        m, n: number of coefficients of a group, which the shapes say already.
    """
    if numerator.dim() == 1:
        numerator = numerator.reshape(group, -1)
    if denominator.dim() == 1:
        denominator = denominator.reshape(group, -1)
    return rational(x, numerator, denominator)


def group_rational_2d(x: Tensor, numerator: Tensor, denominator: Tensor, group: int = 1) -> Tensor:
    """F(x) by groups of dimension 1, for (B, C, H, W)."""
    y = group_rational(x.movedim(1, -1), numerator, denominator, group)
    return y.movedim(-1, 1)


class KAT_Group(GroupRational):
    """:class:`kat.GroupRational` with the authors' arguments, for (..., C).

    Args:
        num_groups: groups into which the channels are divided.
        mode: the initial function, one of :data:`MODES`.
        device: ignored; the backend follows the device of the input.
        order: the degrees of numerator and denominator, as one fork of the package calls them.
        poly_order: the same, as another fork calls them.

    Raises:
        InputError: an unknown mode, or an invalid degree.

    Warns:
        UserWarning: ``device="cpu"``, with which the authors' class computes another function.
    """

    def __init__(
        self,
        num_groups: int = 8,
        mode: str = "gelu",
        device: Any = None,
        order: tuple[int, int] = (5, 4),
        poly_order: tuple[int, int] | None = None,
    ) -> None:
        if str(device) == "cpu":
            warnings.warn(_OTHER_FUNCTION, stacklevel=2)
        super().__init__(
            num_groups, poly_order or order, preset_of(mode), channel_dim=self._channel_dim
        )
        self.order = self.degree

    _channel_dim = -1
    rational: Any = staticmethod(group_rational)

    def initialize(self, mode: str = "gelu") -> None:
        """Reset all groups to the function of a mode."""
        self.init = preset_of(mode)
        self.reset_parameters()

    def init_info(self) -> dict[str, dict[str, list[float]]]:
        """Return the initial coefficients of each mode, as in the authors' ``init.json``."""
        found = {mode: preset(name, self.degree, self.form) for mode, name in MODES.items()}
        return {
            mode: {"init_w_numerator": list(f.numerator), "init_w_denominator": list(f.denominator)}
            for mode, f in found.items()
        }


class KAT_Group2D(KAT_Group):
    """The same for (B, C, H, W)."""

    _channel_dim = 1
    rational = staticmethod(group_rational_2d)


class KAT_Group_Torch(KAT_Group):
    """The same for the authors' class in plain PyTorch, whose function for x < 0 is another one.

    Warns:
        UserWarning: always.
    """

    def __init__(
        self,
        num_groups: int = 8,
        mode: str = "gelu",
        device: Any = None,
        poly_order: tuple[int, int] = (5, 4),
    ) -> None:
        warnings.warn(_OTHER_FUNCTION, stacklevel=2)
        super().__init__(num_groups, mode, poly_order=poly_order)


class SharedDenKAN(nn.Module):
    """One numerator for each channel; its caller gives the denominators, for (..., C).

    The layer of a fork of ``kat_rational``, github.com/qi4820/MKAT.

    Args:
        in_features: C.
        init_mode: the initial function, one of :data:`MODES`.

    Warns:
        UserWarning: always; the fork computes the function of the authors' CPU code.
    """

    def __init__(self, in_features: int, init_mode: str = "gelu") -> None:
        warnings.warn(_OTHER_FUNCTION, stacklevel=2)
        super().__init__()
        numerator = torch.tensor([preset(preset_of(init_mode)).numerator])
        self.numerator = nn.Parameter(numerator.repeat(in_features, 1))

    def forward(self, x: Tensor, shared_denominator: Tensor) -> Tensor:
        """F(x) with the denominators (C, n)."""
        return rational(x, self.numerator, shared_denominator)


class RationalTriton1DGroup:
    """The authors' autograd function, of which user code calls ``apply``."""

    apply = staticmethod(group_rational)


class RationalTriton2D:
    """The same for (B, C, H, W)."""

    apply = staticmethod(group_rational_2d)


rational_1dgroup = RationalTriton1DGroup
Rational_CUDA_A_1DGroup = group_rational
rational_fwd = rational_fwd_optimized = rational_fwd_triton = group_rational
rational_fwd_triton_2d = group_rational_2d


def preset_of(mode: str) -> str:
    """Return the preset that stands for a mode."""
    if mode not in MODES:
        raise unknown("mode of KAT_Group", mode, MODES)
    return MODES[mode]
