"""Batches of a dataset, from any batch of any epoch on."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from kat.data import (
    AugmentConfig,
    DataConfig,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
    train_transform,
)
from kat.data.loading.sampler import ResumableSampler
from tests.images import write_folder


def _digits(split, config=None):
    config = config or DataConfig(batch_size=100)
    data = open_split(config, split)
    data.transform = eval_transform(preprocessing(config, data), normalize=False)
    return data, config


def test_validation_sees_every_image_once_in_order():
    data, config = _digits("val")
    batches = list(make_loader(data, config, training=False))
    labels = torch.cat([batch.labels for batch in batches]).tolist()
    assert labels == [data[i][1] for i in range(len(data))]


def test_closing_stops_the_workers_of_an_iteration_that_is_held():
    data, config = _digits("train", DataConfig(batch_size=100, num_workers=2))
    loader = make_loader(data, config, training=True)
    iteration = iter(loader)
    first = next(iteration).labels
    assert len(multiprocessing.active_children()) == 2
    loader.close()
    assert multiprocessing.active_children() == []
    assert len(loader) == 14
    loader.start_at(0, 0)
    assert torch.equal(next(iter(loader)).labels, first)  # by new workers
    loader.close()
    assert multiprocessing.active_children() == []


@pytest.mark.release
def test_a_process_exits_with_an_open_loader():
    code = """
from kat.data import DataConfig, make_loader, open_split
config = DataConfig(batch_size=100, num_workers=1)
data = open_split(config, "train")
data.transform = id
iteration = iter(make_loader(data, config, training=True))
next(iteration)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("training", [True, False])
def test_deleting_a_loader_stops_its_workers(training):
    data, config = _digits("train", DataConfig(batch_size=100, num_workers=2))
    loader = make_loader(data, config, training=training)
    for _ in loader:
        break
    assert len(multiprocessing.active_children()) == (2 if training else 0)
    del loader
    assert multiprocessing.active_children() == []


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
def test_an_epoch_can_be_resumed_at_any_batch(folder, workers):
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


def test_the_augmentation_of_an_image_is_independent_of_its_batch(folder):
    """The same images in batches of one and of five; others with another seed."""
    singly = {b.seeds[0]: b.images[0] for b in _loader(folder, batch_size=1)}
    together = {}
    for batch in _loader(folder, batch_size=5):
        together.update(zip(batch.seeds, batch.images, strict=True))
    assert len(singly) == 22
    assert together.keys() < singly.keys()
    assert all(torch.equal(image, singly[seed]) for seed, image in together.items())
    assert not singly.keys() & {b.seeds[0] for b in _loader(folder, batch_size=1, seed=8)}


def test_batches_of_two_processes_are_those_of_one(folder, monkeypatch):
    one = list(_loader(folder, batch_size=6))
    halves = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        halves.append(list(_loader(folder, batch_size=3)))
    assert [len(half) for half in halves] == [len(one)] * 2
    for whole, first, second in zip(one, *halves, strict=True):
        assert set(whole.seeds) == {*first.seeds, *second.seeds}
        images = dict(zip(whole.seeds, whole.images, strict=True))
        for half in (first, second):
            for seed, image in zip(half.seeds, half.images, strict=True):
                assert torch.equal(images[seed], image)


def test_processes_of_an_evaluation_share_the_images(monkeypatch):
    """Each comes once."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    batches = []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        batches.append(list(ResumableSampler(20, 4, seed=None)))
    assert [[len(batch) for batch in own] for own in batches] == [[4, 3], [4, 3], [4, 2]]
    assert sorted(key[1] for own in batches for batch in own for key in batch) == [*range(20)]


def test_loading_restores_the_generators_of_the_process(folder):
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    torch.empty((), dtype=torch.int64).random_()  # the DataLoader's own draw, once an iteration
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert len(list(_loader(folder))) == 5
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


@pytest.mark.slow
def test_a_killed_worker_is_one_error_that_says_what_to_do():
    """In a process of its own: torch raises again, by a signal, whenever a child ends later."""
    code = """
import multiprocessing, os, signal
from kat.data import DataConfig, make_loader
from kat.data.loading.workers import LoaderFailed, worker_has_ended
from tests.data.test_loader import _digits

data, config = _digits("train", DataConfig(batch_size=10, num_workers=2))
batches = iter(make_loader(data, config, training=True))
next(batches)
try:
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    list(batches)
except RuntimeError as error:
    os._exit(0 if isinstance(error, LoaderFailed) or worker_has_ended(error) else 3)
os._exit(4)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
