"""Selection of parts of a model by index, name, glob or regular expression."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from kat.errors import InputError, unknown

Selector = str | int | re.Pattern[str]
"""One of

- an index in the order of the parts,
- a name or a glob: it matches the full name of the part or of a module around it, or the end of
  such a name after a dot (``"blocks.0"``, ``"layers.[0-3]"``, ``"mlp"``),
- a regular expression, as ``re.compile(...)`` makes it: it matches such a full name as a whole.
"""
Selection = Selector | Iterable[Selector]

T = TypeVar("T")


class Parts:
    """The parts of a model that a selection chooses from.

    Args:
        names: the full names of the parts.
        kind: what the parts are, for messages.
        passed_over: other names, which no selection finds, and why.
    """

    def __init__(
        self, names: Iterable[str], kind: str, passed_over: Mapping[str, str] | None = None
    ) -> None:
        self.names = list(names)
        self.kind = kind
        self.passed_over = passed_over or {}

    def selected(self, only: Selection | None, exclude: Selection | None = None) -> list[str]:
        """The names of the parts that ``only`` selects, and ``exclude`` does not; in their order.

        Args:
            only: by default all.
            exclude: by default none.

        Raises:
            InputError: a selector that matches nothing; nothing is left.
        """
        chosen = set(self.names) if only is None else self._any(only, "only")
        left_out = set() if exclude is None else self._any(exclude, "exclude")
        names = [name for name in self.names if name in chosen - left_out]
        if not names:
            what = f"only={only!r}" if exclude is None else f"exclude={exclude!r}"
            raise InputError(f"{what} leaves no {self.kind}")
        return names

    def assigned(self, settings: Mapping[Selector, T], default: T) -> dict[str, T]:
        """The value of the first selector that matches each part, the default where none does.

        Raises:
            InputError: a selector that matches nothing.
        """
        matches = {key: self._matching(key, "config") for key in settings}
        return {
            name: next((settings[key] for key in settings if name in matches[key]), default)
            for name in self.names
        }

    def _any(self, selection: Selection, argument: str) -> set[str]:
        several = isinstance(selection, Iterable) and not isinstance(selection, str)
        selectors: Iterable[Any] = selection if several else [selection]  # type: ignore[assignment]
        return {name for each in selectors for name in self._matching(each, argument)}

    def _matching(self, selector: Selector, argument: str) -> list[str]:
        if isinstance(selector, int):
            return [self.names[selector]]
        matching = [name for name in self.names if _matches(name, selector)]
        if matching:
            return matching
        for name, reason in self.passed_over.items():
            if _matches(name, selector):
                raise InputError(f"{argument}={selector!r}: {name} is passed over: {reason}")
        text = selector if isinstance(selector, str) else selector.pattern
        raise unknown(self.kind, text, self.names)


def _matches(name: str, pattern: str | re.Pattern[str]) -> bool:
    parts = name.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    if isinstance(pattern, re.Pattern):
        return any(pattern.fullmatch(path) for path in around)
    return any(fnmatchcase(path, p) for path in around for p in (pattern, f"*.{pattern}"))
