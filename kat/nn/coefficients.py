"""Coefficients of the rational function that approximate a known function; numbers of groups."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kat.errors import InputError, check_count
from kat.ops import FORMS
from kat.ops.arguments import divisors

ALIASES = {"swish": "silu", "swish_wide": "silu_wide"}
"""Other names of functions and presets."""


KANIFY_INTERVAL = (-6.0, 6.0)
"""The interval on which :func:`kat.kanify` fits activations: twice as wide as the presets'."""


@dataclass(frozen=True)
class Coefficients:
    """Coefficients of F = P/Q: your own, or a fit to a known function.

    Args:
        numerator: a_0 .. a_m.
        denominator: b_1 .. b_n.
        form: the form of Q for which they were fitted, ``"A"`` or ``"B"``.
        interval: (low, high), the interval of the fit.
        max_error: the largest |F - function| on the interval; 0 if F is the function.

    Raises:
        InputError: a coefficient is not finite, the numerator has less than two, or the form is
            unknown.

    Examples:
        >>> import kat
        >>> square = kat.Coefficients((0, 0, 1, 0, 0, 0), (0, 0, 0, 0))
        >>> square.degree
        (5, 4)
        >>> act = kat.GroupRational(8, init=square)
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    form: str = "A"
    interval: tuple[float, float] = (-3.0, 3.0)
    max_error: float = 0.0

    def __post_init__(self) -> None:
        """Check the coefficients."""
        finite = all(map(math.isfinite, (*self.numerator, *self.denominator)))
        if not finite or self.form not in FORMS or self.degree[0] < 1:
            raise InputError(
                "coefficients must be finite, two or more in the numerator, of form A or B, not"
                f" numerator={self.numerator!r} and denominator={self.denominator!r} of form"
                f" {self.form!r}"
            )

    @property
    def degree(self) -> tuple[int, int]:
        """The degrees (m, n) of numerator and denominator."""
        return len(self.numerator) - 1, len(self.denominator)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; ``init=`` accepts this too."""
        lists = ("numerator", "denominator", "interval")
        return asdict(self) | {name: list(getattr(self, name)) for name in lists}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], source: str = "init") -> Coefficients:
        """Read the fields from a mapping with any other entries, such as a file of ``kat fit``.

        Numerator and denominator suffice.

        Args:
            content: maps names to numbers and lists of numbers.
            source: the name of the mapping in error messages.

        Raises:
            InputError: a field is missing or invalid.
        """
        try:
            low, high = content.get("interval", cls.interval)
            return cls(
                tuple(float(value) for value in content["numerator"]),
                tuple(float(value) for value in content["denominator"]),
                str(content.get("form", cls.form)),
                (float(low), float(high)),
                float(content.get("max_error", cls.max_error)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} does not hold coefficients as 'kat fit' writes them:"
                f" {type(error).__name__}: {error}"
            ) from None


Init: TypeAlias = str | Path | Coefficients | Mapping[str, Any] | Callable[..., Any]
"""Values of ``init=``: the name of a preset, the path of a ``.json`` file of ``kat fit``,
:class:`Coefficients`, the mapping in such a file, or a function of a tensor.
"""


def check_degree(degree: Sequence[int]) -> tuple[int, int]:
    """Return the degrees (m, n) of numerator and denominator.

    Raises:
        InputError: m < 1 or n < 0.
    """
    try:
        m, n = map(operator.index, degree)
    except (TypeError, ValueError):
        m = n = -1
    if m < 1 or n < 0:
        raise InputError(f"degree must be (m, n) with m >= 1 and n >= 0, got {degree!r}")
    return m, n


def count_groups(num_groups: int | str, name: str, width: int) -> int:
    """Return the number of groups into which a width is divided.

    Args:
        num_groups: the number; ``"channels"``: one for each channel; ``"auto"``: see
            :func:`largest_groups`.
        name: the argument that gives the width, for the message.
        width: the number of channels.

    Raises:
        InputError: the groups do not divide the width, or one of both is no positive integer.
    """
    check_count(name, width)
    if num_groups == "auto":
        return largest_groups(width)
    groups: Any = width if num_groups == "channels" else num_groups
    groups = check_count('num_groups, if not "auto" or "channels",', groups)
    if width % groups:
        raise InputError(
            f"{name}={width} is not divisible by num_groups={num_groups}, but by {divisors(width)};"
            ' num_groups="auto" chooses the largest up to 8'
        )
    return groups


def largest_groups(width: int) -> int:
    """Return the largest divisor of a width up to 8: ``num_groups="auto"``."""
    return max(count for count in range(1, 9) if width % count == 0)
