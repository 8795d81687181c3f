"""The settings of data and augmentation."""

from __future__ import annotations

from kat.data import (
    AugmentConfig,
)


def test_default_augmentation_is_none():
    augment = AugmentConfig()
    assert (augment.scale, augment.ratio) == ((1.0, 1.0), (1.0, 1.0))
    assert augment.hflip == augment.mixup == augment.cutmix == augment.random_erasing == 0
