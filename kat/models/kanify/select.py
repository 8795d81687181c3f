"""The selection of MLPs by ``only=``, and the number of groups that their widths allow."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from kat.errors import InputError, unknown
from kat.models.kanify.find import Found, Mlp

Only = str | int | Iterable[str | int]

_MOST_GROUPS = 8


def chosen(found: Found, only: Only | None) -> list[Mlp]:
    """The MLPs that ``only`` selects, in the order of the model; all for None.

    Args:
        found: all MLPs.
        only: an index, a glob for the full name of the activation or of a module around it, or
            several of these.

    Raises:
        InputError: a selector that selects nothing, or is neither an index nor a glob.
    """
    if only is None:
        return found.mlps
    several = isinstance(only, Iterable) and not isinstance(only, str)
    selectors: list[Any] = list(only) if several else [only]  # type: ignore[arg-type]
    names = {name for selector in selectors for name in _selected(found, selector)}
    if not names:
        raise InputError("only=[] selects nothing; leave it out to replace every MLP")
    return [mlp for mlp in found.mlps if mlp.activation in names]


def _selected(found: Found, selector: str | int) -> list[str]:
    if isinstance(selector, bool) or not isinstance(selector, str | int):
        raise InputError(f"only={selector!r} is neither an index nor a glob, nor several of these")
    names = [mlp.activation for mlp in found.mlps]
    if isinstance(selector, int):
        if not -len(names) <= selector < len(names):
            raise InputError(f"only={selector}: there are {len(names)} MLPs, counted from 0")
        return [names[selector]]
    matching = [name for name in names if _matches(name, selector)]
    if not matching:
        for name, reason in found.skipped.items():
            if _matches(name, selector):
                raise InputError(f"only={selector!r} has no MLP to replace; {name}: {reason}")
        raise unknown("MLP", selector, names)
    return matching


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    around = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return any(fnmatchcase(path, pattern) for path in around)


def groups(mlp: Mlp, given: int | None) -> tuple[int, int]:
    """The numbers of groups of the input channels and of the hidden channels.

    Args:
        mlp: with the widths that they divide.
        given: the number for both; by default the largest divisor of each width up to 8.

    Raises:
        InputError: ``given`` is not an integer, or does not divide both widths.
    """
    d_in, d_hidden, _ = mlp.widths
    return divisor(mlp, d_in, given), divisor(mlp, d_hidden, given)


def divisor(mlp: Mlp, width: int, given: int | None) -> int:
    """The number of groups of one of an MLP's widths, see :func:`groups`."""
    few = [count for count in range(1, 4 * _MOST_GROUPS) if width % count == 0]
    if given is None:
        return max(count for count in few if count <= _MOST_GROUPS)
    if isinstance(given, bool) or not isinstance(given, int):
        raise InputError(f"num_groups must be an integer, got {given!r}")
    if given < 1 or width % given:
        raise InputError(
            f"num_groups={given} does not divide the width {width} of {mlp.activation}, as"
            f" {', '.join(map(str, few))} do; without num_groups each width gets its own"
        )
    return given
