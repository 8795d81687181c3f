"""From images to the input of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import create_transform
from torchvision import transforms

from kat.data import (
    AugmentConfig,
    DataConfig,
    DeviceTransform,
    eval_transform,
    open_split,
    preprocessing,
    train_transform,
)
from kat.data.seeds import seed_all
from kat.errors import InputError
from tests.images import write_folder


def test_normalization_on_the_device_equals_torchvisions():
    """timm's transform ends with ToTensor and Normalize."""
    images = torch.arange(5 * 3 * 16 * 16).remainder(256).to(torch.uint8).view(5, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([theirs(image.permute(1, 2, 0).numpy()) for image in images])
    assert torch.equal(DeviceTransform(mean, std)(images), expected)
    assert DeviceTransform(mean, std)(expected) is expected  # prepared already


def test_random_erasing_depends_on_the_seed_of_the_image_alone():
    images = torch.full((4, 1, 16, 16), 128, dtype=torch.uint8)
    prepare = DeviceTransform((0.5,), (0.5,), random_erasing=1.0)
    plain = DeviceTransform((0.5,), (0.5,))(images)
    erased = prepare(images, [3, 1, 4, 1])
    assert all((image != same).any() for image, same in zip(erased, plain, strict=True))
    assert torch.equal(erased[1], erased[3])
    assert not torch.equal(erased[0], erased[1])
    assert torch.equal(prepare(images[:1], [4])[0], erased[2])
    assert torch.equal(prepare(images), plain)  # evaluation


def test_digits_are_normalized_to_zero_mean_and_unit_variance():
    data = open_split(DataConfig(), "train")
    data.transform = eval_transform(preprocessing(DataConfig(), data))
    images = torch.stack([data[index][0] for index in range(len(data))])
    assert images.mean().item() == pytest.approx(0, abs=0.01)
    assert images.std().item() == pytest.approx(1, abs=0.01)


def test_preprocessing_takes_the_settings_then_those_of_the_dataset():
    data = open_split(DataConfig(), "train")
    own = preprocessing(DataConfig(), data)
    assert own.input_size == (1, 8, 8)
    given = preprocessing(DataConfig(image_size=16, mean=[0.5], std=[0.25]), data)
    assert (given.input_size, given.mean, given.std) == ((1, 16, 16), (0.5,), (0.25,))


def test_image_size_is_required_if_images_differ(tmp_path):
    write_folder(tmp_path, classes=1, train=1, val=1)
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(InputError, match=r"data\.image_size is needed"):
        preprocessing(config, open_split(config, "train"))


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


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5", "v0", "rand-m10-inc1", "rand-m2"])
def test_policies_run_on_gray_and_rgb(policy, tmp_path):
    """Some posterize to no bits."""
    write_folder(tmp_path, classes=1, train=1, val=1)
    augment = AugmentConfig(scale=(0.08, 1), hflip=0.5, auto_augment=policy)
    for config in (DataConfig(name=f"folder:{tmp_path}", image_size=16), DataConfig()):
        data = open_split(config, "train")
        spec = preprocessing(config, data)
        data.transform = train_transform(spec, augment)
        for seed in range(100):
            seed_all(seed)
            image, _ = data[0]
            assert (image.shape, image.dtype) == (spec.input_size, torch.uint8)


def test_images_are_converted_to_the_channels_in_the_settings(tmp_path):
    """Grayscale is Pillow's conversion; RGB repeats a gray value three times."""
    write_folder(tmp_path, classes=1, train=1, val=1)
    gray = DataConfig(name=f"folder:{tmp_path}", image_size=24, channels=1)
    data = open_split(gray, "val")
    image = data[0][0]
    spec = preprocessing(gray, data)
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
