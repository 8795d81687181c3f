"""Tables: as CSV files, and aligned on the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kat.errors import InputError
from kat.files import open_input, write_text
from kat.text import printable, say

_NUMBER = re.compile(r"[+-]?[\d.]|-?$|nan$|inf$")
"""The start of a cell that holds a number, or of an empty one."""


def write_table(
    path: str | Path,
    columns: Sequence[str],
    rows: Iterable[Sequence[object] | Mapping[str, object]],
) -> None:
    """Write a CSV file, whole or not at all. Texts are :func:`~kat.text.printable`.

    Args:
        path: the path of the file.
        columns: the names in its first line.
        rows: their cells, in the order of the columns or by their names. None and what a mapping
            lacks are empty cells.

    Examples:
        >>> from pathlib import Path
        >>> from kat.analysis import write_table
        >>> write_table(Path("table.csv"), ["model", "top1"], [["KAT", 98.6], {"model": "ViT"}])
        >>> print(Path("table.csv").read_text().strip())
        model,top1
        KAT,98.6
        ViT,
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(map(_cell, columns))
    for row in rows:
        writer.writerow(map(_cell, map(row.get, columns) if isinstance(row, Mapping) else row))
    write_text(path, file.getvalue())


def _cell(value: object) -> object:
    """Return a cell; a text is printable."""
    return printable(str(value)) if isinstance(value, str | Path) else value


def columns_of(rows: Iterable[Mapping[str, object]], first: Sequence[str] = ()) -> list[str]:
    """Return the names in all rows: ``first``, then the others in the order of their appearance."""
    names = dict.fromkeys(first)
    for row in rows:
        names |= dict.fromkeys(row)
    return list(names)


@contextmanager
def open_table(
    path: str | Path, content: str, if_missing: str = ""
) -> Iterator[Iterator[dict[str, str]]]:
    """Open a CSV file to read its rows by the names of their columns.

    The body may parse the rows: an error of a cell that is missing or wrong is one of the file.

    Args:
        path: the path of the file.
        content: what the file should hold, for the message, e.g. ``"a table of runs"``.
        if_missing: as of :func:`kat.files.open_input`.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    opened = open_input(path, if_missing=if_missing)
    with io.TextIOWrapper(opened, newline="", encoding="utf-8-sig") as file:
        try:
            yield csv.DictReader(file)
        except (LookupError, OverflowError, TypeError, ValueError, csv.Error) as error:
            raise InputError(f"{path} is not {content}: {error}") from None


def number_columns(rows: Sequence[Sequence[str]], count: int) -> list[bool]:
    """Return the columns that hold only numbers; without rows there is none.

    Args:
        rows: texts, row by row.
        count: how many columns there are.
    """
    return [all(map(_NUMBER.match, each)) for each in zip(*rows, strict=True)] or [False] * count


def aligned(
    rows: Iterable[Sequence[str]], indent: str = "", right: Sequence[bool] = ()
) -> list[str]:
    """Rows as :func:`~kat.text.printable` lines whose columns are below each other.

    Args:
        rows: texts, row by row.
        indent: the beginning of each line.
        right: the columns that end below each other; the others begin so.
    """
    listed = [list(map(printable, row)) for row in rows]
    columns = []
    for number, column in enumerate(zip(*listed, strict=True)):
        width = max(map(len, column))
        pad = str.rjust if right and right[number] else str.ljust
        columns.append([pad(cell, width) for cell in column])
    return [indent + "  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to standard output: one line per row, however wide, columns of numbers right.

    Args:
        columns: their names.
        rows: their cells.
    """
    cells = [list(map(str, row)) for row in rows]
    for line in aligned([list(columns), *cells], right=number_columns(cells, len(columns))):
        say(line)
