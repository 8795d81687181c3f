"""Words and numbers for messages and reports: lists, counts, durations, sizes; names of any text.

The names of classes and files are arbitrary text. :func:`say` and :func:`printable` make them fit
for a terminal and a log; tables (:mod:`kat.tables`) and figures (``plain`` of
:mod:`kat.analysis.figures.base`) have their own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

_PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f"  # control characters, among them ESC and line breaks
    "\\u2028\\u2029"  # line breaks
    "\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069"  # change the direction of what follows
    "\\ud800-\\udfff]"  # surrogates: bytes of a file's name that are not UTF-8
)


def printable(text: str) -> str:
    """Return a text as one line, with control characters written as in Python's strings.

    A name cannot begin a line of its own then, nor reach the terminal as a command.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def say(line: object) -> None:
    """Print a line to standard output, :func:`printable`."""
    sys.stdout.write(f"{printable(str(line))}\n")


def say_all(lines: Iterable[object]) -> None:
    """Print lines to standard output, each :func:`printable`."""
    for line in lines:
        say(line)


def warn(line: object) -> None:
    """Print a line to standard error, :func:`printable`, if anything reads it."""
    with suppress(OSError):
        sys.stderr.write(f"{printable(str(line))}\n")


def listing(items: Iterable[object], limit: int = 3) -> str:
    """Return the first items, and how many more there are: ``a, b, c and 2 more``."""
    texts = list(map(str, items))
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def quoted(names: Sequence[str], singular: str, plural: str) -> str:
    """Return a noun and its names: ``class 'a'``, or ``classes 'a', 'b', 'c' and 2 more``."""
    return f"{singular if len(names) == 1 else plural} {listing(map(repr, names))}"


def numbered(count: int) -> list[str]:
    """Return names for classes without names: ``"0"``, ``"1"`` and so on."""
    return list(map(str, range(count)))


def counted(number: int, noun: str) -> str:
    """Return a number and its noun: ``1 worker``, ``3 workers``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def dimensions(shape: Iterable[int]) -> str:
    """Return a shape: ``3x224x224``."""
    return "x".join(map(str, shape))


def duration(seconds: float) -> str:
    """Return a time span: ``12.3 s``, ``7 min 45 s``, ``1 h 07 min``, ``2 d 07 h``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def scaled(number: float, unit: str = "") -> str:
    """Return a number of at most four digits with an SI prefix: ``1.127 G``, ``47.6 MB``, ``2 B``.

    Args:
        number: at least 0.
        unit: what is counted, e.g. ``"B"``.
    """
    for prefix, factor in _PREFIXES.items():
        if number >= factor:
            return f"{number / factor:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()
