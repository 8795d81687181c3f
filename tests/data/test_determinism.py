"""What a loader gives is a function of seed, epoch, image and process, whatever came before."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchvision import transforms

from kat.data import (
    AugmentConfig,
    DataConfig,
    DevicePreparation,
    loaders,
    make_loader,
    open_split,
    preprocessing,
    train_transform,
)
from tests.images import write_folder

AUGMENT = AugmentConfig(
    scale=(0.2, 1), ratio=(0.75, 4 / 3), hflip=0.5, auto_augment="rand-m9-mstd0.5"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folder(root, classes=2, train=11, val=1)
    return root


def _loader(folder, batch_size=4, workers=0, seed=7):
    config = DataConfig(
        name=f"folder:{folder}", image_size=24, batch_size=batch_size, num_workers=workers
    )
    data = open_split(config, "train")
    data.transform = train_transform(preprocessing(config, data), AUGMENT)
    return make_loader(data, config, training=True, seed=seed)


def _same(first, second):
    return all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.seeds == b.seeds
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_be_entered_at_any_batch(folder, workers):
    whole = _loader(folder)
    epochs = [list(whole), list(whole)]
    assert [len(epoch) for epoch in epochs] == [5, 5]
    first, second = ({seed for b in epoch for seed in b.seeds} for epoch in epochs)
    assert not first & second  # each image is augmented otherwise in each epoch
    assert not torch.equal(*(torch.cat([b.labels for b in epoch]) for epoch in epochs))
    entered = _loader(folder, workers=workers)
    for epoch, start in ((1, 3), (0, 0), (0, 4), (1, 0)):
        entered.start_at(epoch, start)
        assert len(entered) == 5  # of the whole epoch, as the trainer counts
        assert _same(list(entered), epochs[epoch][start:])
    assert _same(list(_loader(folder, workers=workers)), epochs[0])  # fresh workers
    entered.close()


def test_the_augmentation_of_an_image_depends_on_nothing_around_it(folder):
    """The same images one by one as in batches of five, and others with another seed."""
    singly = {b.seeds[0]: b.images[0] for b in _loader(folder, batch_size=1)}
    together = {
        seed: image
        for batch in _loader(folder, batch_size=5)
        for seed, image in zip(batch.seeds, batch.images, strict=True)
    }
    assert len(singly) == 22
    assert together.keys() < singly.keys()
    assert all(torch.equal(image, singly[seed]) for seed, image in together.items())
    assert not singly.keys() & {b.seeds[0] for b in _loader(folder, batch_size=1, seed=8)}


def test_batches_of_two_processes_are_those_of_one(folder, monkeypatch):
    one = list(_loader(folder, batch_size=6))
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr(loaders, "process_of", lambda rank=rank: (rank, 2))
        halves.append(list(_loader(folder, batch_size=3)))
    assert [len(half) for half in halves] == [len(one)] * 2
    for whole, first, second in zip(one, *halves, strict=True):
        assert set(whole.seeds) == {*first.seeds, *second.seeds}
        images = dict(zip(whole.seeds, whole.images, strict=True))
        for half in (first, second):
            pairs = zip(half.seeds, half.images, strict=True)
            assert all(torch.equal(images[seed], image) for seed, image in pairs)


def test_loading_leaves_the_generators_of_the_process_alone(folder):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    loader = _loader(folder)
    torch.manual_seed(1)
    loader.order.begin(0, 0)
    loader.loader.dataset.__getitems__(next(iter(loader.order)))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_normalisation_on_the_device_is_that_of_torchvision_to_the_bit():
    """ToTensor and Normalize, which timm's transform ends with."""
    images = torch.arange(5 * 3 * 16 * 16).remainder(256).to(torch.uint8).view(5, 3, 16, 16)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([theirs(image.permute(1, 2, 0).numpy()) for image in images])
    assert torch.equal(DevicePreparation(mean, std)(images), expected)
    assert DevicePreparation(mean, std)(expected) is expected  # prepared already


def test_what_is_erased_of_an_image_depends_on_its_seed_alone():
    images = torch.full((4, 1, 16, 16), 128, dtype=torch.uint8)
    prepare = DevicePreparation((0.5,), (0.5,), random_erasing=1.0)
    plain = DevicePreparation((0.5,), (0.5,))(images)
    erased = prepare(images, [3, 1, 4, 1])
    assert all((image != same).any() for image, same in zip(erased, plain, strict=True))
    assert torch.equal(erased[1], erased[3])
    assert not torch.equal(erased[0], erased[1])
    assert torch.equal(prepare(images[:1], [4])[0], erased[2])
    assert torch.equal(prepare(images), plain)  # evaluation
