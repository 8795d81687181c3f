"""Packed strings: many names in memory that worker processes share."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from kat.data.packed_strings import PackedStrings
from kat.data.sources.folder import FolderSource

NAMES = ["n01/a.jpg", "", "n02/é.jpg", "n02/\udcff.jpg", "x"]


def test_strings_are_unpacked_unchanged():
    packed = PackedStrings.pack(iter(NAMES))
    assert list(packed) == NAMES
    assert (packed[-1], packed[1:3]) == ("x", NAMES[1:3])
    assert list(pickle.loads(pickle.dumps(packed))) == NAMES
    with pytest.raises(IndexError):
        packed[len(NAMES)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps_rollup")
def test_a_forked_process_that_reads_all_names_copies_next_to_nothing():
    count = 200_000
    names = [f"n{index % 1000:04}/image-{index:08}.JPEG" for index in range(count)]
    packed = PackedStrings.pack(names)
    source = FolderSource("/data/train", packed, np.zeros(count, np.int32))
    assert _growth_in_a_fork(source.name, count) < 4e6  # a list of strings has more than 10e6


def _growth_in_a_fork(name, count) -> int:
    """Growth of the private memory of a forked process that reads all names, in bytes."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        gc.disable()  # a collection touches, and so copies, all objects of the process
        before = _private()
        for index in range(count):
            name(index)
        os.write(writer, str(_private() - before).encode())
        os._exit(0)
    os.wait()
    grown = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    return grown


def _private() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
