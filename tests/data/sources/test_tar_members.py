"""Images in tar files at known offsets."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from kat.data.sources.tar_members import FileRanges


def test_threads_may_read_at_once(tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(8)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(bytes([number]) * 1000)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(100):
            pieces = FileRanges(paths, most_open=2)
            read = partial(pieces.read, offset=0, size=4)
            files = list(range(8)) * 8
            assert list(pool.map(read, files)) == [bytes([number]) * 4 for number in files]


def test_few_files_stay_open(tmp_path):
    paths = []
    for number in range(6):
        paths.append(str(tmp_path / str(number)))
        (tmp_path / str(number)).write_bytes(bytes([number]) * 10 + bytes(range(10)))
    pieces = FileRanges(paths, most_open=2)
    before = len(os.listdir("/proc/self/fd"))
    for number in [0, 1, 2, 3, 4, 5, 0, 5, 1]:
        assert pieces.read(number, 8, 4) == bytes([number, number, 0, 1])
        assert len(os.listdir("/proc/self/fd")) - before <= 2
    copy = pickle.loads(pickle.dumps(pieces))
    assert copy.read(3, 0, 2) == b"\x03\x03"
    with pytest.raises(OSError, match="ends before byte 30"):
        pieces.read(0, 15, 15)
    pieces.close()
    copy.close()
    assert len(os.listdir("/proc/self/fd")) == before
