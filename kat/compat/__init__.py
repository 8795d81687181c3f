"""Runs code written for the authors' ``kat_rational`` package on this library.

``import kat.compat`` makes ``import kat_rational``, or ``rational_kat_cu.kat_rational``, find the
classes below in this process, with the authors' names, arguments and state dicts, on every device.
Where the authors' package is installed, it is used, and a line on stderr says so.
``python -m kat.compat script.py`` does the same for a script that is not to be edited.

The initial functions are this library's presets: the authors' coefficients of GELU are off by up to
1.46 in their own kernel. A loaded state dict computes the same as in the authors' GPU kernels, with
Q = 1 + sum |b_j| |x|^j. Their code for CPUs (``KAT_Group_Torch``, and ``KAT_Group(device="cpu")``)
has Q = 1 + sum |b_j| x^j, which differs for x < 0: by up to 0.70 on [-6, 6] for their GELU. These
classes compute the function of the GPU kernels here, and say so in a warning.

Source: https://github.com/Adamdad/rational_kat_cu
"""

from __future__ import annotations

import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
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

_PACKAGES = ("kat_rational", "rational_kat_cu.kat_rational")
"""The authors' package as it is installed, and in a checkout beside the code that imports it."""

_OTHER_FUNCTION = (
    "kat.compat computes the function of the authors' GPU kernels; for x < 0 their CPU code, which"
    " this call names, computes another one, so weights trained with it give other outputs here"
)

_SUBMODULES = (
    "kat_1dgroup",
    "kat_1dgroup_torch",
    "kat_1dgroup_triton",
    "kat_2dgroup_triton",
    "rational_triton",
    "rational_triton2d",
)


class KAT_Group(GroupRational):
    """:class:`kat.GroupRational` with the authors' arguments, for (..., C).

    Args:
        num_groups: groups into which the channels are divided.
        mode: the initial function, one of :data:`MODES`.
        device: ignored; the backend follows the device of the input.

    Raises:
        InputError: an unknown mode.

    Warns:
        UserWarning: ``device="cpu"``, with which the authors' class computes another function.
    """

    def __init__(self, num_groups: int = 8, mode: str = "gelu", device: str | None = None) -> None:
        if device == "cpu":
            warnings.warn(_OTHER_FUNCTION, stacklevel=2)
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


class KAT_Group_Torch(KAT_Group):
    """The same for the authors' class in plain PyTorch, whose function for x < 0 is another one.

    Warns:
        UserWarning: always.
    """

    def __init__(self, num_groups: int = 8, mode: str = "gelu") -> None:
        warnings.warn(_OTHER_FUNCTION, stacklevel=2)
        super().__init__(num_groups, mode)


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


def _published(name: str) -> str | None:
    """The file of a package that can be imported; a mere folder has none."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # of the package around it
        return None
    return spec.origin if spec else None


def _provide() -> None:
    """Serves the authors' packages that are not installed."""
    for root in _PACKAGES:
        if file := _published(root):
            sys.stderr.write(f"kat.compat: {root} is installed ({file}) and is used, not kat\n")
            continue
        for name in (root, *(f"{root}.{module}" for module in _SUBMODULES)):
            _serve(name)


def _serve(name: str) -> None:
    """Puts a module into ``sys.modules`` and into its package."""
    module = ModuleType(name, __doc__)
    spec = ModuleSpec(name, None, is_package=True)
    vars(module).update(_NAMES, __path__=[], __spec__=spec)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            _serve(parent)
        setattr(sys.modules[parent], last, module)


_NAMES = {
    "KAT_Group": KAT_Group,
    "KAT_Group2D": KAT_Group2D,
    "KAT_Group_Torch": KAT_Group_Torch,
    "RationalTriton1DGroup": RationalTriton1DGroup,
    "RationalTriton2D": RationalTriton2D,
    "rational_1dgroup": RationalTriton1DGroup,
    "rational_fwd_triton": group_rational,
    "Rational_CUDA_A_1DGroup": group_rational,
}
"""The authors' names, which each of their modules has here."""

_provide()
