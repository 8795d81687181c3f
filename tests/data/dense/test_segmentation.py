"""Segmentation datasets in each layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from kat.data import DataConfig, UnreadableImage, make_loader, open_split
from kat.data.config import SegmentationAugmentConfig
from kat.data.dense import open_segmentation
from kat.data.dense.segmentation import decode_mask
from kat.data.dense.transforms import SegmentationTrainTransform
from kat.errors import InputError
from tests.data.dense.mask_files import gray_png, halves, write_ade20k, write_pairs, write_voc


def _masks(data):
    return [data[index][1].numpy() for index in range(len(data))]


def test_ade20k_numbers_classes_from_one_and_zero_means_no_class(tmp_path):
    write_ade20k(tmp_path)
    data, alias = (
        open_split(DataConfig(f"{kind}:{tmp_path}"), "val") for kind in ("ade20k", "ade")
    )
    assert (alias.task, alias.classes, len(alias)) == (data.task, data.classes, len(data))
    assert data.classes == ["sky, heaven", "car;auto"]
    np.testing.assert_array_equal(_masks(data), [halves(255, 0), halves(0, 1)])
    assert data[0][0].size == (30, 20)
    assert data[0][1].dtype == torch.uint8


def test_ade20k_without_its_table_has_150_classes(tmp_path):
    write_ade20k(tmp_path / "ADEChallengeData2016", table=False)
    data = open_segmentation("ade20k", tmp_path, "train")
    assert (len(data.classes), data.classes[0], data.classes[149]) == (150, "1", "150")


def test_voc_has_lists_palettes_and_borders(tmp_path):
    write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    data = open_split(DataConfig(name=f"voc:{tmp_path}"), "train")
    assert (data.classes[0], data.classes[15], len(data.classes)) == ("background", "person", 21)
    assert [data.name(index)[-10:] for index in range(2)] == ["2007_1.jpg", "2007_0.jpg"]
    np.testing.assert_array_equal(_masks(data), [halves(255, 20), halves(0, 15)])


def test_pairs_of_folders(tmp_path):
    write_pairs(tmp_path)
    data = open_split(DataConfig(name=f"masks:{tmp_path}"), "train")
    assert data.classes == ["road", "grass", "sky"]
    np.testing.assert_array_equal(_masks(data), [halves(0, 1), halves(2, 255)])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_gray_pngs_of_any_depth_have_the_values_in_the_file(bits):
    """Pillow makes white of the largest one."""
    stored = (np.arange(16).reshape(2, 8) % 2**bits).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(gray_png(stored, bits), "mask.png"), stored)


@pytest.mark.parametrize(("value", "suffix"), [(3, ".png"), (-1, ".tif")])
def test_values_that_are_not_a_class_are_refused_or_ignored(tmp_path, value, suffix):
    write_pairs(tmp_path)
    path = tmp_path / "train" / "masks" / "0.png"
    path.unlink()
    values = np.where(halves(0, 1), 1, value).astype(np.uint8 if value > 0 else np.int32)
    Image.fromarray(values).save(path.with_suffix(suffix))
    with pytest.raises(InputError, match=f"value {value}"):
        open_segmentation("masks", tmp_path, "train")[0]
    skipping = open_segmentation("masks", tmp_path, "train", "skip")
    np.testing.assert_array_equal(skipping[0][1], halves(255, 1))
    assert "count as 255" in skipping.note
    assert open_segmentation("masks", tmp_path, "train").note == ""


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16", "I"])
def test_values_are_the_same_however_many_bits_they_have(tmp_path, mode):
    write_pairs(tmp_path)
    path = tmp_path / "train" / "masks" / "0.tif"
    path.with_suffix(".png").unlink()
    types = {"1": bool, "L": np.uint8, "RGB": np.uint8, "I;16": np.uint16, "I": np.int32}
    saved = Image.fromarray(halves(0, 1).astype(types[mode]))
    if mode == "RGB":  # as image editors save gray masks
        saved = saved.convert("RGB")
    assert saved.mode == mode
    saved.save(path)
    mask = open_segmentation("masks", tmp_path, "train")[0][1]
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask, halves(0, 1))


def test_repeated_class_names_are_refused(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("road\ngrass\nroad\n")
    with pytest.raises(InputError, match=r"class 'road' more"):
        open_segmentation("masks", tmp_path, "train")


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_found_by_a_worker_is_one_line(tmp_path, workers):
    write_pairs(tmp_path)
    path = tmp_path / "train" / "masks" / "1.png"
    Image.fromarray(halves(3, 1)).save(path)
    config = DataConfig(name=f"masks:{tmp_path}", batch_size=2, num_workers=workers)
    data = open_split(config, "train")
    data.transform = SegmentationTrainTransform(16, SegmentationAugmentConfig(), data.mean)
    loader = make_loader(data, config, training=True)
    with pytest.raises(InputError) as caught:
        list(loader)
    loader.close()
    assert str(caught.value).startswith(f"{path} has the")
    assert "\n" not in str(caught.value)


def test_images_and_masks_without_counterpart_are_refused_or_left_out(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "train" / "masks" / "0.png").unlink()
    config = DataConfig(f"masks:{tmp_path}")
    with pytest.raises(InputError, match=r"images/0\.png: .*masks"):
        open_split(replace(config, bad_images="fail"), "train")
    data = open_split(config, "train")
    np.testing.assert_array_equal(_masks(data), [halves(2, 255)])
    assert list(data.ignored) == [str(tmp_path / "train" / "images" / "0.png")]
    (tmp_path / "val" / "images" / "1.png").unlink()
    assert list(open_split(config, "val").ignored) == [str(tmp_path / "val" / "masks" / "1.png")]


def test_masks_that_cannot_be_used(tmp_path):
    write_pairs(tmp_path)
    path = tmp_path / "train" / "masks" / "0.png"
    data = open_segmentation("masks", tmp_path, "train")
    Image.new("L", (20, 30)).save(path)
    with pytest.raises(UnreadableImage, match=r"20x30 pixels.* 30x20"):
        data[0]
    Image.new("RGB", (30, 20), "red").save(path)
    with pytest.raises(UnreadableImage, match="mode RGB"):
        data[0]
    path.write_bytes(b"torn")
    with pytest.raises(UnreadableImage, match=r"masks/0\.png"):
        data[0]


def test_missing_folders_are_named(tmp_path):
    for layout in ("ade20k", "voc", "masks"):
        with pytest.raises(InputError, match="nowhere"):
            open_segmentation(layout, tmp_path / "nowhere", "train")
    write_pairs(tmp_path)
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(InputError, match="classes, not 0"):
        open_segmentation("masks", tmp_path, "train")


def test_the_loader_stacks_crops_and_repeats_them_on_resuming(tmp_path):
    write_pairs(tmp_path)
    config = DataConfig(name=f"masks:{tmp_path}", batch_size=2)
    data = open_split(config, "train")
    data.transform = SegmentationTrainTransform(16, SegmentationAugmentConfig(), data.mean)
    loader = make_loader(data, config, training=True, seed=5)
    first, second = [next(iter(loader)) for _ in range(2)]
    assert (first.images.shape, first.labels.shape) == ((2, 3, 16, 16), (2, 16, 16))
    assert not torch.equal(first.images, second.images)
    loader.start_at(1, 0)
    (again,) = loader
    assert torch.equal(again.images, second.images)
    assert torch.equal(again.labels, second.labels)
