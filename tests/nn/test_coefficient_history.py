"""The file of coefficients: exact numbers, the documented layout, and bad files."""

from __future__ import annotations

import csv

import pytest
import torch

import kat
from kat.errors import InputError
from kat.nn import LayerHistory, read_coefficient_history, write_coefficient_history

SHAPES = {"a": ("A", 1, 6, 8, 4), "b": ("B", 3, 3, 1, 2), "polynomial": ("A", 1, 2, 2, 0)}
STEPS = [0, 7, 20]


@pytest.fixture
def history():
    generator = torch.Generator().manual_seed(0)
    return {
        name: LayerHistory(
            form,
            torch.tensor(STEPS),
            torch.randn(3, rows_a, a, generator=generator) * 1e-5,
            torch.randn(3, rows_b, b, generator=generator) * 1e5,
        )
        for name, (form, rows_a, a, rows_b, b) in SHAPES.items()
    }


def test_what_is_written_is_read_bit_by_bit(tmp_path, history):
    path = tmp_path / "coefficients.csv"
    write_coefficient_history(history, path)
    found = read_coefficient_history(path)
    assert list(found) == list(SHAPES)
    for name, layer in found.items():
        assert layer.form == history[name].form
        for part in ("steps", "numerator", "denominator"):
            value, expected = getattr(layer, part), getattr(history[name], part)
            assert value.dtype == expected.dtype
            assert torch.equal(value, expected)


def test_the_layout_is_the_documented_one(tmp_path, history):
    path = tmp_path / "coefficients.csv"
    write_coefficient_history(history, path)
    rows = list(csv.DictReader(path.open()))
    assert list(rows[0]) == ["step", "layer", "form", "part", "group", *(f"c{i}" for i in range(6))]
    assert len(rows) == 3 * (9 + 4 + 3)
    assert [int(row["step"]) for row in rows] == sorted(int(row["step"]) for row in rows)
    (row,) = (
        row
        for row in rows
        if (row["step"], row["layer"], row["part"], row["group"]) == ("7", "a", "denominator", "5")
    )
    values = torch.tensor([float(row[f"c{index}"]) for index in range(4)])
    assert torch.equal(values, history["a"].denominator[1, 5])
    assert row["c4"] == row["c5"] == ""


def test_functions_are_those_of_the_operator(history):
    layer = history["a"]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    y = layer.functions(x)
    assert y.shape == (3, 8, 9)
    columns = x.float()[:, None].expand(-1, 8)
    expected = kat.rational(columns, layer.numerator[2], layer.denominator[2], form="A")
    torch.testing.assert_close(y[2].float(), expected.T, rtol=1e-4, atol=1e-12)


def test_files_that_are_something_else(tmp_path, history):
    path = tmp_path / "coefficients.csv"
    with pytest.raises(InputError, match="does not exist"):
        read_coefficient_history(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="'layer'"):
        read_coefficient_history(path)
    write_coefficient_history(history, path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="rows of polynomial are missing"):
        read_coefficient_history(path)
