"""The settings of rationals, and the number of groups that widths allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from kat.errors import InputError
from kat.models.kanify.finders.mlp import Mlp
from kat.nn import Share
from kat.nn.coefficients import KANIFY_INTERVAL
from kat.ops import Form

_MOST_GROUPS = 8


@dataclass(frozen=True)
class KanifyConfig:
    """The rationals of an MLP that :func:`kat.kanify` replaces.

    Args:
        groups: of both rationals, a divisor of both widths; by default the largest divisor of each
            width up to 8.
        first: whether a rational F_1 precedes the first linear map. A gated MLP has none in any
            case: F is the activation of its gate.
        degree, form, share: see :class:`kat.GroupRational`.
        interval: where F_2 approximates the activation. The fits of degree (5, 4) on [-6, 6] to
            known functions are stored; others need the extra ``[fit]``.

    Raises:
        InputError: degree or interval are not two numbers, or the interval is not increasing.

    Examples:
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> plan = kat.kanify(model, config=kat.KanifyConfig(groups=4, first=False))
        >>> plan.parameters  # 6 + 4 * 4
        22
    """

    groups: int | None = None
    first: bool = True
    degree: tuple[int, int] = (5, 4)
    form: Form = "A"
    share: Share = "numerator"
    interval: tuple[float, float] = KANIFY_INTERVAL

    def __post_init__(self) -> None:
        for name in ("degree", "interval"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        if not -math.inf < self.interval[0] < self.interval[1] < math.inf:
            raise InputError(f"interval must be finite and increasing, got {self.interval!r}")


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    pair = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2
    if not pair or not all(isinstance(number, Real) for number in value):
        raise InputError(f"{name} must be two numbers, got {value!r}")
    return value[0], value[1]


def divisor(mlp: Mlp, width: int, given: int | None) -> int:
    """The number of groups of one of an MLP's widths.

    Args:
        mlp: for messages.
        width: the number of channels.
        given: the number; by default the largest divisor up to 8.

    Raises:
        InputError: ``given`` is not an integer, or does not divide the width.
    """
    few = [count for count in range(1, 4 * _MOST_GROUPS) if width % count == 0]
    if given is None:
        return max(count for count in few if count <= _MOST_GROUPS)
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"groups must be an integer, got {given!r}")
    if given < 1 or width % given:
        raise InputError(
            f"groups={given} does not divide the width {width} of {mlp.activation}, as"
            f" {', '.join(map(str, few))} do; without groups each width gets its own"
        )
    return given
