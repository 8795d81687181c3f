"""Tables: as CSV files, and aligned on the terminal."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kat.errors import InputError, MissingFile
from kat.files import open_input, write_text
from kat.text import printable

_NUMBER = re.compile(r"[+-]?[\d.]|-?$|nan$|inf$")
"""How a cell starts that holds a number, or none."""


def write_table(
    path: str | Path,
    columns: Sequence[str],
    rows: Iterable[Sequence[object] | Mapping[str, object]],
) -> None:
    """Writes a CSV file, whole or not at all. Texts are :func:`~kat.text.printable`.

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
    """A cell; of a text its printable form, with a quote if a spreadsheet would compute it."""
    if not isinstance(value, str | Path):
        return value
    text = printable(str(value))
    return f"'{text}" if text.startswith(("=", "@")) else text


def fill_tables(page: str, tables: Mapping[str, str]) -> str:
    """A Markdown page with each table between its marks; a table without marks is left out.

    Args:
        page: has a line ``<!-- table of NAME -->`` and a line ``<!-- end of table -->`` for each.
        tables: by name, in Markdown.

    Examples:
        >>> from kat.tables import fill_tables
        >>> page = "<!-- table of a --> old <!-- end of table -->"
        >>> print(fill_tables(page, {"a": "new"}))
        <!-- table of a -->
        <BLANKLINE>
        new
        <BLANKLINE>
        <!-- end of table -->
    """
    for name, content in tables.items():
        before, mark, after = page.partition(f"<!-- table of {name} -->")
        _, end, rest = after.partition("<!-- end of table -->")
        if end:
            page = f"{before}{mark}\n\n{content.strip()}\n\n{end}{rest}"
    return page


def columns_of(rows: Iterable[Mapping[str, object]], first: Sequence[str] = ()) -> list[str]:
    """The names in all rows: ``first``, then the others in the order of their appearance."""
    return list(dict.fromkeys([*first, *(name for row in rows for name in row)]))


@contextmanager
def open_table(
    path: str | Path, content: str, if_missing: str = ""
) -> Iterator[Iterator[dict[str, str]]]:
    """Opens a CSV file to read its rows by the names of their columns.

    The body may parse the rows: an error of a cell that is missing or wrong is one of the file.

    Args:
        path: the path of the file.
        content: what the file should hold, for the message, e.g. ``"a table of runs"``.
        if_missing: why there may be no such file, for the message.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        with io.TextIOWrapper(open_input(path), newline="", encoding="utf-8-sig") as file:
            yield csv.DictReader(file)
    except MissingFile as error:
        raise InputError(f"{error}: {if_missing}" if if_missing else str(error)) from None
    except InputError:
        raise
    except (LookupError, OverflowError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not {content}: {error}") from None


def number_columns(rows: Sequence[Sequence[str]], count: int) -> list[bool]:
    """The columns that hold numbers alone; without rows none does.

    Args:
        rows: texts, row by row.
        count: how many columns there are.
    """
    columns = list(zip(*rows, strict=True))
    return [all(map(_NUMBER.match, column)) for column in columns] or [False] * count


def aligned(rows: Iterable[Sequence[str]], indent: str = "") -> list[str]:
    """Rows as :func:`~kat.text.printable` lines whose columns begin below each other."""
    listed = [list(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*listed, strict=True)]
    return [indent + "  ".join(map(str.ljust, row, widths)).rstrip() for row in listed]


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    bad: Sequence[bool] | None = None,
) -> None:
    """Prints a table to standard output: one line per row, however wide, columns of numbers right.

    Args:
        columns: their names.
        rows: their cells.
        bad: which rows are printed in red.
    """
    from rich.console import Console  # not needed to import kat
    from rich.table import Table

    cells = [[printable(str(cell)) for cell in row] for row in rows]
    are_numbers = number_columns(cells, len(columns))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, is_number in zip(columns, are_numbers, strict=True):
        table.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row, is_bad in zip(cells, bad or [False] * len(cells), strict=True):
        table.add_row(*row, style="red" if is_bad else "")
    widest = Console(markup=False, highlight=False, width=_ANY_WIDTH)
    with widest.capture() as text:
        widest.print(table)
    sys.stdout.write(text.get())  # rich ends the program where nobody reads its output any more


_ANY_WIDTH = 10_000
"""In characters; tables without a border are only as wide as their cells."""
