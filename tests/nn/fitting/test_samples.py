"""Points from CSV files."""

from __future__ import annotations

import numpy as np
import pytest

from kat.errors import InputError
from kat.nn.fitting import Points, read_points


def read(tmp_path, content: str | bytes):
    path = tmp_path / "points.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_points(path)


@pytest.mark.parametrize(
    "content",
    [
        "x,y\n1,2\n3,4.5\n-1,1e-3\n",
        "3,4.5\n1,2\n-1,0.001\n",
        " input , output\r\n\r\n1, 2\r\n-1, 0.001\r\n3, 4.5\r\n1, 2\r\n",
        b"\xef\xbb\xbfx,y\n1,2\n3,4.5\n-1,1e-3",
    ],
)
def test_points_come_sorted_and_once(tmp_path, content):
    points = read(tmp_path, content)
    assert points.name == "points.csv"
    assert points.x.tolist() == [-1.0, 1.0, 3.0]
    assert points.y.tolist() == [0.001, 2.0, 4.5]
    assert points.within(0, 2).x.tolist() == [1.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no points"),
        ("x,y\n", "holds no points"),
        ("1,2\n3\n", "line 2: '3' is not a point"),
        ("x,y\n1,2\n3,4,5\n", "line 3: '3,4,5' is not a point"),
        ("1,2\nnan,4\n", "line 2: 'nan,4' is not a point: two finite numbers"),
        ("1,2\n3,inf\n", "line 2: '3,inf'"),
        ("1,2\n3,four\n", "line 2: '3,four'"),
        ("1,x\n3,4\n", "line 1: '1,x'"),
        ("1;2\n3;4\n", "line 2: '3;4'"),
        ("1,2\n3,4\n1,5\n", "lines 1 and 3: x = 1 has the values 2 and 5"),
        (b"\xff\xfe\x00", "cannot be read as CSV"),
    ],
)
def test_what_is_no_point_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_points(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_points(tmp_path)


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        ([0, 1, 2], [0, 1], None, r"of one length, got \(3,\), \(2,\)"),
        ([0, 1, 2], [0, float("nan"), 1], None, "of measured must be finite"),
        ([0, 2, 1], [0, 1, 2], None, "x of measured must increase"),
        ([0, 1, 1], [0, 1, 1], None, "x of measured must increase"),
        ([0, 1, 2], [0, 1, 2], [1, -1, 1], "must not be negative"),
    ],
)
def test_points_that_cannot_be_fitted_are_named(x, y, weight, message):
    arrays = [np.array(a, dtype=float) for a in (x, y, weight) if a is not None]
    with pytest.raises(InputError, match=message):
        Points("measured", *arrays)
