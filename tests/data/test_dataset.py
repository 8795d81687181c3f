"""Datasets and their subsets."""

from __future__ import annotations

from kat.data import DataConfig, open_split
from tests.images import write_folder


def test_an_evenly_spaced_subset(tmp_path):
    write_folder(tmp_path, classes=3, train=1, val=4)
    val = open_split(DataConfig(name=f"folder:{tmp_path}"), "val")
    part = val.evenly_spaced(6)
    assert [part[i][1] for i in range(len(part))] == [0, 0, 1, 1, 2, 2]
    assert [part.name(i) for i in range(6)] == [val.name(2 * i) for i in range(6)]
    assert len(val.evenly_spaced(100)) == len(val) == 12
    assert [val.evenly_spaced(100).name(i) for i in range(12)] == [val.name(i) for i in range(12)]
