"""Building a run: its batches, the images on the device, the files that are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kat.data import AugmentConfig, Batch, DataConfig
from kat.data.dataset import SourceSubset
from kat.errors import InputError
from kat.training import ModelConfig, TrainConfig
from kat.training.engine.build import build
from kat.training.engine.checks import check_run
from kat.training.engine.loop import prepared
from kat.training.settings.resolve import resolve
from tests.training.small import batches, make_run

DIGITS = {"data": DataConfig(name="digits", batch_size=32)}


@pytest.mark.parametrize(("limit", "count"), [(None, 44), (0.1, 4), (1.0, 44), (1, 1), (100, 44)])
def test_a_limit_leaves_a_number_of_batches_or_a_share(tmp_path, limit, count):
    config = TrainConfig(
        out=str(tmp_path / "run"), limit_train_batches=limit, limit_val_batches=3, **DIGITS
    )
    run = build(resolve(config))
    assert (run.batches, run.val_batches) == (count, 3)
    assert run.schedule.steps == count * 10
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "images"), [(3, 96), (0.001, 1), (0.5, 180), (99, 360)])
def test_a_limit_validates_on_images_of_all_classes(tmp_path, limit, images):
    """Data in folders is sorted by class: its first batches would be of one class."""
    config = TrainConfig(out=str(tmp_path / "run"), limit_val_batches=limit, **DIGITS)
    resolved = resolve(config)
    order = np.argsort(resolved.val_data.class_indices(), kind="stable")
    resolved.val_data.source = SourceSubset(resolved.val_data.source, order)
    labels = torch.cat([batch.labels for batch in build(resolved).val_loader])
    assert len(labels) == images
    assert len(labels.unique()) == min(10, images)


def test_a_batch_that_is_larger_than_the_data_is_named_with_both_numbers(tmp_path):
    config = TrainConfig(out=str(tmp_path / "run"), data=DataConfig(name="digits", batch_size=2000))
    with pytest.raises(InputError, match=r"1437.* data\.batch_size=2000 "):
        build(resolve(config))


@pytest.mark.parametrize(("side", "unseen"), [(60, 4), (57, 1), (56, 0), (64, 0)])
def test_pixels_that_no_patch_covers_change_nothing_and_are_warned_of(capsys, side, unseen):
    data = DataConfig(name="digits", batch_size=32, image_size=side)
    model = ModelConfig("kat_micro", {"patch_size": 8})
    resolved = resolve(TrainConfig(model=model, data=data))
    run = build(resolved)
    check_run(run, resolved)
    images = torch.rand(1, 1, side, side, requires_grad=True)
    run.model.eval()(images).sum().backward()
    seen = int((images.grad[0, 0] != 0).any(0).sum())
    assert side - seen == unseen
    warned = capsys.readouterr().err
    assert warned.count("56x56 and 64x64") == (unseen > 0)


def test_an_image_is_normalized_and_loses_a_rectangle_only_in_training():
    run = make_run(batches(1), augment=AugmentConfig(random_erasing=1.0))
    images = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    batch = Batch(images, torch.zeros(4), [], [1, 2, 3, 4])
    assert torch.equal(prepared(run, batch).images, torch.ones(4, 1, 8, 8))  # (1 - 0.5) / 0.5
    erased = prepared(run, batch, training=True).images
    assert all((image != 1).any() and (image == 1).any() for image in erased)
    assert torch.equal(prepared(run, batch, training=True).images, erased)


def test_images_have_the_layout_and_precision_of_the_run():
    run = make_run(batches(1), precision="64-true", model_config=ModelConfig(channels_last=True))
    images = prepared(run, Batch(torch.zeros(2, 3, 4, 4), [0, 0], [])).images
    assert images.dtype == torch.float64
    assert images.is_contiguous(memory_format=torch.channels_last)
    each = prepared(run, Batch([torch.zeros(3, 4, 4), torch.zeros(3, 5, 4)], [0, 0], [])).images
    assert [tuple(image.shape) for image in each] == [(3, 4, 4), (3, 5, 4)]


def test_unreadable_images_are_named_once(capsys):
    run = make_run(batches(1))
    prepared(run, Batch([], [], [("a.jpg", "torn"), ("b.jpg", "empty"), ("a.jpg", "torn")]))
    prepared(run, Batch([], [], [("a.jpg", "torn"), ("c.jpg", "torn")]))
    run.print_skipped()
    run.print_skipped()
    reason = "it cannot be read as an image"
    assert capsys.readouterr().out == (
        f"skipped 2 files, first a.jpg: {reason}: torn\nskipped b.jpg: {reason}: empty\n"
    )
    assert set(run.state.skipped) == {"a.jpg", "b.jpg", "c.jpg"}
