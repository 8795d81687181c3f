"""Shards that several tests read."""

from __future__ import annotations

import pytest

from tests.images import picture, samples, write_tar


@pytest.fixture
def shards(tmp_path):
    """Three shards of 4 training images, labels 0 and 1 in turn, and one of 3 validation images."""
    for number in range(3):
        images = [picture(4 * number + i) for i in range(4)]
        write_tar(tmp_path / f"train-{number:04}.tar", samples(images, start=4 * number))
    write_tar(tmp_path / "val-0000.tar", samples([picture(i) for i in range(3)]))
    return tmp_path
