"""The settings of data and augmentation."""

from __future__ import annotations

import pytest

from kat.data import AugmentConfig, is_stream


def test_default_augmentation_is_none():
    augment = AugmentConfig()
    assert (augment.scale, augment.ratio) == ((1.0, 1.0), (1.0, 1.0))
    assert augment.hflip == augment.mixup == augment.cutmix == augment.random_erasing == 0


@pytest.mark.parametrize("name", ["wds/tiny", "hfids/a/b", "tfds/mnist", "tfds/mnist:3.0.1"])
def test_streams(name):
    assert is_stream(name)


@pytest.mark.parametrize("name", ["wds:/data/wds/x", "digits", "torch/cifar10", "hfds/a/b", "wds"])
def test_datasets_with_random_access(name):
    assert not is_stream(name)
