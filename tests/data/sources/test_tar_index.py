"""The offsets of the members of tar files."""

from __future__ import annotations

import io

import numpy as np

from kat.data.sources import tar_index
from tests.images import write_tar


def test_the_index_finds_the_bytes_of_each_member(tmp_path):
    """The bytes at each offset are those that were written."""
    rng = np.random.default_rng(0)
    files = [(f"n0/{i}.jpg", rng.bytes(int(rng.integers(0, 3000)))) for i in range(20)]
    write_tar(tmp_path / "x.tar", files)
    content = (tmp_path / "x.tar").read_bytes()
    with open(tmp_path / "x.tar", "rb") as file:
        found = list(tar_index.members(io.BufferedReader(file.raw), "x.tar"))
    assert [(m.name, content[m.offset : m.offset + m.size]) for m in found] == files
