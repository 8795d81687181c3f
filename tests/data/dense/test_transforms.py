"""Images and masks are transformed together: the pixels of a test image encode their position."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from kat.data.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.transforms import (
    DetectionTrainTransform,
    SegmentationTrainTransform,
    fitted_size,
    largest_share,
)

MEAN = (0.5, 0.4, 0.3)
FILL = [128, 102, 76]


def _scene(height=60, width=90):
    """Three objects, red, green and blue, on black; the last is a crowd."""
    masks = torch.zeros(3, height, width, dtype=torch.uint8)
    masks[0, 5:25, 10:40] = 1
    masks[1, 30:58, 50:85] = 1
    masks[2, 40:60, 0:20] = 1
    pixels = np.zeros((height, width, 3), np.uint8)
    for channel, mask in enumerate(masks.numpy()):
        pixels[mask > 0, channel] = 255
    target = {
        "boxes": torch.tensor([[10.0, 5, 40, 25], [50, 30, 85, 58], [0, 40, 20, 60]]),
        "labels": torch.tensor([3, 7, 1]),
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        "iscrowd": torch.tensor([0, 0, 1]),
        "image_id": torch.tensor(42),
    }
    return Image.fromarray(pixels), target


@pytest.mark.parametrize("seed", range(4))
def test_masks_boxes_and_pixels_stay_together(seed):
    image, target = _scene()
    torch.manual_seed(seed)
    pixels, moved = DetectionTrainTransform(64, DetectionAugmentConfig(), MEAN)(image, target)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.uint8
    assert int(moved["image_id"]) == 42
    assert not moved["iscrowd"].any()
    for box, label, mask, area in zip(
        moved["boxes"], moved["labels"], moved["masks"], moved["area"], strict=True
    ):
        channel = {3: 0, 7: 1}[int(label)]
        object_pixels = pixels[channel].float() / 255
        other = 1 - channel
        inside = _eroded(mask)  # interpolation blurs borders
        assert object_pixels[inside].min() > 0.9 if inside.any() else True
        assert pixels[other][inside].float().max() < 30 if inside.any() else True
        ys, xs = np.nonzero(mask.numpy())
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert area == mask.sum() == len(xs)


def _eroded(mask):
    from scipy.ndimage import binary_erosion

    return torch.from_numpy(binary_erosion(mask.numpy() > 0, iterations=3, border_value=0))


def _scaled(scale, hflip=0.0, size=64, image_and_target=None):
    config = DetectionAugmentConfig(scale=(scale, scale), hflip=hflip)
    return DetectionTrainTransform(size, config, MEAN)(*(image_and_target or _scene()))


@pytest.mark.parametrize("seed", range(4))
def test_boxes_alone_are_those_around_the_masks_of_rectangles(seed):
    image, target = _scene()
    boxes_alone = {name: value for name, value in target.items() if name != "masks"}
    config = DetectionAugmentConfig(min_side=3.0)
    found = []
    for one in (target, boxes_alone):
        torch.manual_seed(seed)
        found.append(DetectionTrainTransform(64, config, MEAN)(image, one))
    (pixels, whole), (same, alone) = found
    assert torch.equal(pixels, same)
    assert type(alone["boxes"]) is torch.Tensor
    assert alone["labels"].tolist() == whole["labels"].tolist()
    torch.testing.assert_close(alone["boxes"], whole["boxes"], atol=1.0, rtol=0)  # whole pixels


def test_a_scale_of_one_just_fits_the_square_and_pads_below():
    pixels, moved = _scaled(1.0, size=90)
    assert pixels[:, 70, 30].tolist() == FILL
    assert pixels[0, 15, 25] == 255
    assert moved["boxes"].tolist() == [[10, 5, 40, 25], [50, 30, 85, 58]]
    flipped_pixels, flipped = _scaled(1.0, hflip=1.0, size=90)
    assert torch.equal(flipped_pixels[:, :60], pixels[:, :60].flip(-1))
    assert flipped["boxes"].tolist() == [[50, 5, 80, 25], [5, 30, 40, 58]]


@pytest.mark.parametrize("seed", range(8))
def test_a_crop_lies_within_the_image(seed):
    torch.manual_seed(seed)
    white = Image.new("RGB", (240, 60), (255, 255, 255))
    mask = torch.ones(1, 60, 240, dtype=torch.uint8)
    target = _scene()[1] | {"masks": mask, "iscrowd": torch.zeros(1, dtype=torch.int64)}
    target |= {name: target[name][:1] for name in ("boxes", "labels", "area")}
    pixels, moved = _scaled(5.0, size=64, image_and_target=(white, target))
    assert (pixels == 255).all()
    assert moved["boxes"].tolist() == [[0, 0, 64, 64]]


def test_objects_outside_the_crop_are_dropped_with_all_their_fields():
    image, target = _scene()
    for side, labels in ((29, []), (25, [7])):
        config = DetectionAugmentConfig(scale=(1.0, 1.0), hflip=0.0, min_side=side)
        _, moved = DetectionTrainTransform(90, config, MEAN)(image, target)
        assert moved.pop("labels").tolist() == labels
        assert {len(value) for value in moved.values() if value.ndim} == {len(labels)}


def test_the_size_of_a_fitted_image():
    assert fitted_size(480, 640, 512) == fitted_size(640, 480, 512)[::-1] == (512, 683)
    assert fitted_size(100, 1000, 50) == (20, 200)  # no longer than four times 50


def _halves(share):
    mask = torch.zeros(100, 100, dtype=torch.uint8)
    mask[:, round(100 * share) :] = 1
    return mask


def _segmentation(**settings):
    """A transform for images of 100 pixels; ``scale`` is relative to their size."""
    settings = {"hflip": 0.0, "distortion": 0.0, "scale": (0.5, 2.0), **settings}
    settings["scale"] = tuple(100 / 40 * factor for factor in settings["scale"])
    return SegmentationTrainTransform(40, SegmentationAugmentConfig(**settings), MEAN)


def _encoded(mask):
    return Image.fromarray(np.stack([255 * mask.numpy()] * 3, -1))


def test_no_class_fills_more_than_its_share_of_a_crop_if_possible():
    mask = _halves(0.4)
    shares = {}
    for share in (0.75, 1.0):
        crop = _segmentation(max_class_share=share)
        drawn = []
        for seed in range(60):
            torch.manual_seed(seed)
            drawn.append(largest_share(crop(_encoded(mask), mask)[1]))
        shares[share] = np.mean([value > 0.76 for value in drawn])
    assert shares[1.0] > 0.3
    assert shares[0.75] < shares[1.0] / 3


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_and_its_mask_stay_together(seed):
    mask = _halves(0.4)
    torch.manual_seed(seed)
    pixels, moved = _segmentation(hflip=0.5)(_encoded(mask), mask)
    real = moved != 255
    sure = real & ((pixels[0] < 40) | (pixels[0] > 215))
    assert sure.sum() > 0.8 * real.sum()
    assert torch.equal(moved[sure].bool(), pixels[0][sure] > 127)


def test_padding_has_no_class():
    mask = _halves(0.5)
    pixels, moved = _segmentation(scale=(0.2, 0.2))(_encoded(mask), mask)
    assert (moved[:20, :20] != 255).all()
    assert (moved[20:] == 255).all()
    assert (moved[:, 20:] == 255).all()
    assert pixels[:, 30, 30].tolist() == FILL


def test_a_crop_may_be_smaller_than_the_images_it_is_cut_from():
    mask = torch.arange(100, dtype=torch.uint8).repeat(100, 1)
    crops = []
    for seed in range(40):
        torch.manual_seed(seed)
        pixels, moved = _segmentation(crop=16, scale=(1.0, 1.0))(_encoded(mask), mask)
        assert pixels.shape == (3, 16, 16)
        assert moved.shape == (16, 16)
        assert (moved.diff(dim=1) == 1).all()  # at the scale of the image, nothing is resized
        crops.append(int(moved[0, 0]))
    assert min(crops) < 15
    assert max(crops) > 69


def test_colors_change_and_the_mask_does_not():
    mask = _halves(0.5)
    image = Image.new("RGB", (100, 100), (120, 60, 30))
    plain, distorted = (
        _segmentation(scale=(0.3, 0.3), distortion=p)(image, mask) for p in (0.0, 1.0)
    )
    assert plain[0][:, 5, 5].tolist() == [120, 60, 30]
    assert distorted[0][:, 5, 5].tolist() != [120, 60, 30]
    assert torch.equal(plain[1], distorted[1])
