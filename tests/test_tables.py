"""Tables as CSV files and on the terminal."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from kat.errors import InputError
from kat.tables import number_columns, open_table, print_table, write_table


def test_rows_may_be_sequences_or_mappings(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, ("name", "count"), [("a, b", 1), {"count": 2, "name": None}, {"name": "c"}])
    assert list(csv.reader(path.open())) == [["name", "count"], ["a, b", "1"], ["", "2"], ["c", ""]]
    with open_table(path, "a table") as rows:
        assert [row["count"] for row in rows] == ["1", "2", ""]


def test_a_table_that_fails_is_not_written(tmp_path):
    path = tmp_path / "table.csv"
    write_table(path, ("name",), [("before",)])
    with pytest.raises(ZeroDivisionError):
        write_table(path, ("name",), ((1 / number,) for number in (1, 0)))
    assert path.read_text().split() == ["name", "before"]
    assert list(tmp_path.iterdir()) == [path]


def test_bad_tables(tmp_path):
    path = tmp_path / "table.csv"

    def read(column):
        with open_table(path, "a list of numbers", "nothing wrote it") as rows:
            return [float(row[column]) for row in rows]

    with pytest.raises(InputError, match=r"table\.csv does not exist: nothing wrote it"):
        read("x")
    path.write_text("x\n1\n2\n")
    assert read("x") == [1.0, 2.0]
    with pytest.raises(InputError, match=r"table\.csv is not a list of numbers: 'y'"):
        read("y")
    path.write_text("x\n1\ntwo\n")
    with pytest.raises(InputError, match="could not convert string to float: 'two'"):
        read("x")


def test_columns_of_numbers():
    rows = [["a", "1.5", "-", "3x224"], ["2", "nan", "-0.1 ± 2", "8"], ["b", "+1 %", "", ".5"]]
    assert number_columns(rows, 4) == [False, True, True, True]
    assert number_columns([], 2) == [False, False]


def test_a_printed_row_is_one_line_however_long(capsys):
    print_table(("name", "count"), [("[bold]\x1b[31m\n" + "x" * 200, 1), ("y", 1000)])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "count"]
    assert first.split() == [r"[bold]\x1b[31m\n" + "x" * 200, "1"]
    assert second.endswith("1000")
    assert first.index(" 1") > second.index(" 1000")  # numbers end below each other


def test_names_in_a_file_are_printable(tmp_path):
    """`cat table.csv` must not send to the terminal what a name of a file or class holds."""
    path = tmp_path / "table.csv"
    name = "a\x1b]0;owned\x07\n=1\x9b"
    write_table(path, ("file", name), [(Path(name), "é")])
    shown = r"a\x1b]0;owned\x07\n=1\x9b"
    cells = [["file", shown], [shown, "é"]]
    assert list(csv.reader(path.open(newline="", encoding="utf-8"))) == cells


def test_numbers_and_texts_stay_what_they_are(tmp_path):
    path, values = tmp_path / "table.csv", [-1.5, -2, float("-inf"), 1e-9]
    texts = ["+0.30", "-", "", "1+1", "+ mixup", "=a", "@home", "'x'", "-a.jpg"]
    write_table(path, range(13), [[*values, *texts]])
    assert list(csv.reader(path.open(newline="")))[1] == [*map(str, values), *texts]
