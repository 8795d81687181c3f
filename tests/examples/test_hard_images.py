"""The example of hard images: splits, occlusion, corruptions, and a table for each measure."""

from __future__ import annotations

import sys
from argparse import Namespace

import numpy as np
import pytest
import torch

from tests.examples.domains import ARMS
from tests.images import write_fashion_mnist

CORRUPTIONS = ("noise", "blur", "contrast", "rotation")


@pytest.fixture(scope="module")
def images(example):
    """The module examples/domains/images.py."""
    return example("images")


@pytest.fixture(scope="module")
def runner(images):
    """The module examples/domains/runner.py."""
    return sys.modules[images.Domain.__module__]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The name of a small Fashion-MNIST of noise."""
    folder = tmp_path_factory.mktemp("fashion")
    write_fashion_mnist(folder, train=400, val=60)
    return f"fashion_mnist:{folder}"


def _run(images, runner, data, folder, arm="gelu", tuning=False):
    torch.manual_seed(3)
    folder.mkdir(exist_ok=True)
    path = folder / f"{arm}.ckpt"
    trial = runner.Trial("fashion-100", arm, 1e-2, 3, 2, torch.device("cpu"), path, tuning)
    return images.run(Namespace(data=data), trial)


def test_arms_have_as_many_parameters(images):
    models = [images.make_model(arm) for arm in ARMS]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert tuple(images.DOMAIN.rates) == ARMS
    assert max(sizes) < 1.02 * min(sizes)
    for model in models:
        assert model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["fashion-100", "fashion-10000"])
def test_images_are_split_by_the_seed_as_many_of_each_class(images, name):
    task = images.TASKS[name]
    assert task.train == int(name.split("-")[1])
    numbers = torch.arange(60_000)
    everything = images.Images(numbers, numbers % 10)
    parts = images.split(task, everything, 1)
    for part, count in zip(parts, (task.train, task.valid), strict=True):
        assert part.labels.bincount().tolist() == [count // 10] * 10
        assert torch.equal(part.pixels % 10, part.labels)
    assert len(torch.cat([part.pixels for part in parts]).unique()) == task.train + task.valid
    again, other = images.split(task, everything, 1), images.split(task, everything, 2)
    assert torch.equal(parts[0].pixels, again[0].pixels)
    assert torch.equal(parts[1].pixels, again[1].pixels)
    assert not torch.equal(parts[0].pixels, other[0].pixels)


def test_a_square_of_a_quarter_to_a_third_of_each_image_is_gray(images):
    pixels = torch.ones(300, 1, 28, 28, dtype=torch.uint8)
    made = images.occluded(pixels)
    corners = set()
    for image in made[:, 0]:
        rows, columns = torch.nonzero(image != 1, as_tuple=True)
        side = int(rows.max() - rows.min()) + 1
        assert side == int(columns.max() - columns.min()) + 1
        assert side**2 == len(rows)
        assert 1 / 4 < len(rows) / 28**2 < 1 / 3
        assert set(image[rows, columns].tolist()) == {128}
        corners.add((int(rows.min()), int(columns.min())))
    assert len(corners) > 100
    for along in zip(*corners, strict=True):
        assert (min(along), max(along)) == (0, 28 - side)
    assert torch.equal(made, images.occluded(pixels))


def test_test_images_are_the_same_for_all_arms_and_seeds(images, data):
    made = []
    for seed in (1, 2):
        images.hardened.cache_clear()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        made.append(images.hardened(data))
        assert torch.equal(before, torch.get_rng_state())
    assert list(made[0]) == ["test", "occluded", *CORRUPTIONS]
    clean = images.read(data, "val")
    for name, changed in made[0].items():
        assert torch.equal(changed.pixels, made[1][name].pixels)
        assert torch.equal(changed.labels, clean.labels)
        assert changed.pixels.shape == clean.pixels.shape
        assert torch.equal(changed.pixels, clean.pixels) == (name == "test")


def test_only_tests_see_occluded_and_corrupted_images(images, runner, data, tmp_path, monkeypatch):
    batches, hardened = [], []
    shift, harden = images.augmented, images.hardened
    monkeypatch.setattr(images, "augmented", lambda x: batches.append(x) or shift(x))
    monkeypatch.setattr(images, "hardened", lambda name: hardened.append(name) or harden(name))
    _, row = _run(images, runner, data, tmp_path, tuning=True)
    assert set(row) == {"valid", "seconds", "cpu_seconds", "curve"}
    assert not hardened
    seen, _ = images.split(images.TASKS["fashion-100"], images.read(data, "train"), 3)
    known = {image.numpy().tobytes() for image in seen.pixels}
    assert [len(batch) for batch in batches] == [16, 16]
    assert {image.numpy().tobytes() for batch in batches for image in batch} <= known
    model, row = _run(images, runner, data, tmp_path / "test")
    assert hardened == [data]
    for name, changed in harden(data).items():
        with torch.no_grad():
            wrong = (model(changed.pixels).argmax(1) != changed.labels).sum().item()
        assert row[name] == pytest.approx(wrong / 60)
    assert row["corrupted"] == pytest.approx(np.mean([row[name] for name in CORRUPTIONS]))
