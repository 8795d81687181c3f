"""Runs code written for the authors' ``kat_rational`` package on this library.

``import kat.compat`` makes ``import kat_rational`` find the classes below in this process, with the
authors' names, arguments and state dicts, on every device. Nothing is installed under that name,
so the authors' package is left alone. ``python -m kat.compat script.py`` does the same for a script
that is not to be edited.

The initial functions are this library's presets: the authors' coefficients of GELU are off by up to
1.46 in their own kernel. A loaded state dict computes the same as there.

Source: https://github.com/Adamdad/rational_kat_cu
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from torch import Tensor

from kat.errors import unknown
from kat.nn import GroupRational
from kat.ops import rational

MODES = {
    "identity": "identity",
    "leaky_relu": "leaky_relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_old": "gelu",
    "swish": "swish",
}
"""The authors' initialization modes, and the presets that stand for them."""

_SUBMODULES = ("kat_1dgroup", "kat_1dgroup_torch", "kat_1dgroup_triton", "kat_2dgroup_triton")


class KAT_Group(GroupRational):
    """:class:`kat.GroupRational` with the authors' arguments, for (..., C).

    Args:
        num_groups: groups into which the channels are divided.
        mode: the initial function, one of :data:`MODES`.
        device: ignored; the backend follows the device of the input.

    Raises:
        InputError: an unknown mode.
    """

    def __init__(self, num_groups: int = 8, mode: str = "gelu", device: str | None = None) -> None:
        super().__init__(num_groups, init=_preset(mode), channel_dim=self._channel_dim)
        self.order = self.degree

    _channel_dim = -1

    def initialize(self, mode: str = "gelu") -> None:
        """Resets all groups to the function of a mode."""
        self.init = _preset(mode)
        self.reset_parameters()


class KAT_Group2D(KAT_Group):
    """The same for (B, C, H, W)."""

    _channel_dim = 1


def group_rational(x: Tensor, numerator: Tensor, denominator: Tensor, group: int) -> Tensor:
    """F(x) by groups of the last dimension: :func:`kat.rational` with the authors' arguments.

    Args:
        x: (..., C).
        numerator: (group, m + 1), or (1, m + 1) for one numerator in all groups.
        denominator: (group, n).
        group: number of groups, which the denominator has already; kept for the signature.
    """
    return rational(x, numerator, denominator)


class RationalTriton1DGroup:
    """The authors' autograd function, of which user code calls ``apply``."""

    apply = staticmethod(group_rational)


class RationalTriton2D:
    """The same for (B, C, H, W)."""

    @staticmethod
    def apply(x: Tensor, numerator: Tensor, denominator: Tensor, group: int) -> Tensor:
        """F(x) by groups of dimension 1."""
        return group_rational(x.movedim(1, -1), numerator, denominator, group).movedim(-1, 1)


def _preset(mode: str) -> str:
    if mode not in MODES:
        raise unknown("mode of KAT_Group", mode, MODES)
    return MODES[mode]


def _provide() -> None:
    """Puts ``kat_rational`` and its submodules into ``sys.modules``.

    Raises:
        ImportError: the authors' package is imported already.
    """
    imported = sys.modules.get("kat_rational")
    if imported is not None:
        where = getattr(imported, "__file__", None)
        raise ImportError(f"kat_rational is imported from {where}: import kat.compat before it")
    names = {
        "KAT_Group": KAT_Group,
        "KAT_Group2D": KAT_Group2D,
        "KAT_Group_Torch": KAT_Group,
        "RationalTriton1DGroup": RationalTriton1DGroup,
        "RationalTriton2D": RationalTriton2D,
        "rational_1dgroup": RationalTriton1DGroup,
        "Rational_CUDA_A_1DGroup": group_rational,
    }
    package = ModuleType("kat_rational", __doc__)
    package.__path__ = []
    for name in ("", *_SUBMODULES):
        module = ModuleType(f"kat_rational.{name}", __doc__) if name else package
        vars(module).update(names)
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=module is package)
        sys.modules[module.__name__] = module
        if name:
            setattr(package, name, module)


_provide()
