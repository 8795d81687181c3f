"""Selection of parts of a model by index, name, glob or regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from kat.errors import InputError, check_is, unknown
from kat.text import listing

Selector = str | int | re.Pattern[str]
"""A selector of parts:

- an index in the order of the parts,
- a name or a glob: it matches the full name of the part or of a module around it, or the end of
  such a name after a dot (``"blocks.0"``, ``"layers.[0-3]"``, ``"mlp"``),
- a regular expression, as ``re.compile(...)`` makes it: it matches such a full name as a whole.
"""
Selection = Selector | Iterable[Selector]


def selected(
    names: Collection[str],
    kind: str,
    only: Selection | None,
    exclude: Selection | None = None,
    passed_over: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the names that ``only`` selects, and ``exclude`` does not; in their order.

    Args:
        names: the full names of the parts.
        kind: what the parts are, for messages.
        only: by default all.
        exclude: by default none.
        passed_over: other names, which no selection finds, and why.

    Raises:
        InputError: a selector that matches nothing; nothing is left.
    """

    def matching(selector: Any, argument: str) -> list[str]:
        if isinstance(selector, int):
            if not -len(names) <= selector < len(names):
                known = listing((f"{index} is {name}" for index, name in enumerate(names)), 24)
                raise InputError(f"{argument}={selector}: there are {len(names)}: {known}")
            return [[*names][selector]]
        if not isinstance(selector, re.Pattern):
            check_is(argument, selector, str)
        found = [name for name in names if _matches(name, selector)]
        for name, reason in () if found else (passed_over or {}).items():
            if _matches(name, selector):
                raise InputError(f"{argument}={selector!r}: {name} is passed over: {reason}")
        if not found:
            raise unknown(kind, getattr(selector, "pattern", selector), names)
        return found

    def among(selection: Any, argument: str) -> set[str]:
        several = isinstance(selection, Iterable) and not isinstance(selection, str)
        selectors = selection if several else [selection]
        names: set[str] = set()
        for each in selectors:
            names.update(matching(each, argument))
        return names

    chosen = set(names) if only is None else among(only, "only")
    left_out = set() if exclude is None else among(exclude, "exclude")
    kept = [name for name in names if name in chosen - left_out]
    if not kept:
        what = f"only={only!r}" if exclude is None else f"exclude={exclude!r}"
        raise InputError(f"{what} leaves no {kind}")
    return kept


def _matches(name: str, pattern: str | re.Pattern[str]) -> bool:
    parts = name.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    if isinstance(pattern, re.Pattern):
        return any(pattern.fullmatch(path) for path in around)
    return any(fnmatchcase(f".{path}", f"*.{pattern}") for path in around)
