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
        ("1,2\n3\n", "line 2: '3' is not a point"),
        ("1,2\n3,inf\n", "must be finite"),
        ("1;2\n3;4\n", "line 1: '1;2'"),
        ("x,y\n", "has no point"),
        ("1,2\n3,4\n1,5\n", "keep one value, or the mean"),
    ],
)
def test_what_is_no_point_is_named(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, content)


def test_unsorted_points_are_named():
    with pytest.raises(InputError, match="of measured must be finite, and x must increase"):
        Points("measured", np.array([0.0, 2.0, 1.0]), np.zeros(3))
