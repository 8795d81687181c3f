"""From data sets to batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import create_transform

from kat.data import (
    AugmentConfig,
    DataConfig,
    DevicePreparation,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
    train_transform,
)
from kat.errors import InputError
from tests.images import write_folder


def _digits(split, config=None):
    config = config or DataConfig(batch_size=100)
    data = open_split(config, split)
    data.transform = eval_transform(preprocessing(config, data), normalize=False)
    return data, config


def test_training_batches_are_full_shuffled_and_a_function_of_seed_and_epoch():
    data, config = _digits("train")

    def labels(seed, epoch):
        loader = make_loader(data, config, training=True, seed=seed)
        loader.start_at(epoch, 0)
        batches = list(loader)
        assert len(batches) == 14
        assert {len(batch.labels) for batch in batches} == {100}
        return torch.cat([batch.labels for batch in batches])

    assert torch.equal(labels(0, 0), labels(0, 0))
    assert not torch.equal(labels(0, 0), labels(0, 1))
    assert not torch.equal(labels(0, 0), labels(1, 0))


def test_validation_sees_every_image_once_in_order():
    data, config = _digits("val")
    batches = list(make_loader(data, config, training=False))
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert labels == [data[i][1] for i in range(len(data))]


def test_images_are_normalised_to_zero_mean_and_unit_variance():
    data, config = _digits("train", DataConfig(batch_size=1437))
    images = next(iter(make_loader(data, config, training=True))).images
    assert images.dtype == torch.uint8
    spec = preprocessing(config, data)
    images = DevicePreparation(spec.mean, spec.std)(images)
    assert images.shape == (1437, 1, 8, 8)
    assert images.mean().item() == pytest.approx(0, abs=0.01)
    assert images.std().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_leave_the_batch_and_are_named(tmp_path, workers):
    write_folder(tmp_path, classes=2, train=1, val=3)
    bad = tmp_path / "val" / "n01" / "1.jpg"
    bad.write_bytes(b"torn")
    config = DataConfig(name=f"folder:{tmp_path}", image_size=32, batch_size=4, num_workers=workers)
    data = open_split(config, "val")
    data.transform = eval_transform(preprocessing(config, data))
    first, second = make_loader(data, config, training=False)
    assert (len(first.labels), first.unreadable) == (4, [])
    assert second.labels.tolist() == [1]
    assert [name for name, _ in second.unreadable] == [str(bad)]


def test_a_batch_of_nothing_readable_is_empty(tmp_path):
    write_folder(tmp_path, classes=1, train=1, val=1)
    (tmp_path / "val" / "n00" / "0.jpg").write_bytes(b"torn")
    config = DataConfig(name=f"folder:{tmp_path}", image_size=32)
    (batch,) = make_loader(open_split(config, "val"), config, training=False)
    assert len(batch.labels) == len(batch.images) == 0


def test_preprocessing_takes_the_settings_then_the_data_sets_own():
    data = open_split(DataConfig(), "train")
    own = preprocessing(DataConfig(), data)
    assert own.input_size == (1, 8, 8)
    given = preprocessing(DataConfig(image_size=16, mean=[0.5], std=[0.25]), data)
    assert (given.input_size, given.mean, given.std) == ((1, 16, 16), (0.5,), (0.25,))
    with pytest.raises(InputError, match=r"data\.mean has 3 numbers, but the images have 1"):
        preprocessing(DataConfig(mean=[0.5, 0.5, 0.5]), data)


def test_image_size_is_asked_for_where_images_differ(tmp_path):
    write_folder(tmp_path, classes=1, train=1, val=1)
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(InputError, match=r"data\.image_size is needed"):
        preprocessing(config, open_split(config, "train"))


def test_fewer_images_than_a_batch_is_an_error():
    data, _ = _digits("train")
    with pytest.raises(InputError, match=r"1437 images, fewer than one batch.*2000"):
        make_loader(data, DataConfig(batch_size=2000), training=True)


def test_evaluation_is_timms_validation_protocol(tmp_path):
    """Bicubic, the shorter side to 224 / 0.875 = 256, central crop."""
    write_folder(tmp_path, classes=1, train=1, val=1)
    config = DataConfig(name=f"folder:{tmp_path}", image_size=224, crop_pct=0.875)
    data = open_split(config, "val")
    image = data[0][0]
    ours = eval_transform(preprocessing(config, data))(image)
    timms = create_transform(
        224,
        is_training=False,
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=0.875,
    )(image)
    np.testing.assert_array_equal(ours.numpy(), timms.numpy())


def test_imagenet_recipe_augmentation_runs_on_grey_and_rgb(tmp_path):
    write_folder(tmp_path, classes=1, train=6, val=1)
    augment = AugmentConfig(
        scale=(0.08, 1),
        ratio=(0.75, 4 / 3),
        hflip=0.5,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5",
    )
    folder = DataConfig(name=f"folder:{tmp_path}", image_size=64)
    for config in (folder, DataConfig()):
        data = open_split(config, "train")
        spec = preprocessing(config, data)
        data.transform = train_transform(spec, augment)
        for index in range(6):
            assert data[index][0].shape == spec.input_size
            assert data[index][0].dtype == torch.uint8


def test_images_are_converted_to_the_channels_that_are_asked_for(tmp_path):
    """Pillow's conversion to grey, and a grey value three times."""
    write_folder(tmp_path, classes=1, train=1, val=1)
    grey = DataConfig(name=f"folder:{tmp_path}", image_size=24, channels=1)
    data = open_split(grey, "val")
    image = data[0][0]
    spec = preprocessing(grey, data)
    assert spec.input_size == (1, 24, 24)
    assert spec.mean == pytest.approx((0.449,))  # that of (0.485, 0.456, 0.406)
    converted = eval_transform(spec)(image.convert("L"))
    torch.testing.assert_close(eval_transform(spec)(image), converted, rtol=0, atol=0)
    assert train_transform(spec, AugmentConfig(color_jitter=0.4))(image).shape == (1, 24, 24)
    rgb = DataConfig(image_size=8, channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    digits = open_split(rgb, "val")
    digits.transform = eval_transform(preprocessing(rgb, digits))
    red, green, blue = digits[0][0]
    assert torch.equal(red, green)
    assert torch.equal(red, blue)
    with pytest.raises(InputError, match="mean has 3 numbers, but the images have 1 channels"):
        preprocessing(DataConfig(channels=1, mean=[0.5] * 3), digits)
