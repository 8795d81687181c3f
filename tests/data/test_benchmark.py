"""The measurements of loading, by a clock that reading and transforming move."""

from __future__ import annotations

import multiprocessing

import pytest
import torch
from torch.utils.data import get_worker_info

from kat.data import DataConfig, ImageDataset
from kat.data.benchmark import STAGES, loading_rate, stage_times
from kat.errors import InputError
from tests.images import picture


class _Slow:
    """A source and a transform that take known times by their own clock.

    Each of two workers waits for the other before it reads its first image.
    """

    def __init__(self, content=None):
        self.content = picture() if content is None else content
        self.now = 0.0
        self.both, self.waited = multiprocessing.Barrier(2), False

    def __len__(self):
        return 64

    def name(self, index):
        return f"image {index}"

    def read(self, index):
        self.now += 0.004
        if get_worker_info() is not None and not self.waited:
            self.waited = True
            self.both.wait(60)
        return self.content, 0

    def transform(self, image):
        self.now += 0.008
        return torch.zeros(3, 4, 4)

    def clock(self):
        return self.now


def _dataset(source):
    data = ImageDataset(source, ["0"], image_size=(4, 4))
    data.transform = source.transform
    return data


def test_each_stage_has_its_time():
    source = _Slow()
    times = stage_times(_dataset(source), DataConfig(batch_size=8), 0, 0.4, source.clock)
    assert list(times) == list(STAGES)
    assert times == pytest.approx({"read": 0.004, "decode": 0, "augment": 0.008, "collate": 0})


def test_the_rate_of_a_loader():
    source = _Slow()
    rate, unreadable = loading_rate(
        _dataset(source), DataConfig(batch_size=8), 0, 0.4, source.clock
    )
    assert rate == pytest.approx(1 / 0.012)
    assert unreadable == 0


def test_workers_load_side_by_side():
    config = DataConfig(batch_size=8, num_workers=2)
    rate, unreadable = loading_rate(_dataset(_Slow()), config, 0, 0.1)
    assert rate > 0
    assert unreadable == 0


def test_unreadable_images_are_an_error_if_there_are_no_others():
    for measure in (loading_rate, stage_times):
        source = _Slow(b"torn")
        with pytest.raises(InputError, match="no image of 'digits' can be read"):
            measure(_dataset(source), DataConfig(batch_size=8), 0, 0.4, source.clock)
