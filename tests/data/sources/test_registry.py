"""Datasets by name, and what all sources have in common."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from kat.data import DataConfig, check_classes, make_loader, open_split
from kat.errors import InputError
from tests.images import (
    damaged_images,
    odd_images,
    samples,
    write_folder,
    write_rows,
    write_tar,
)


def test_a_class_missing_in_one_split_is_named(tmp_path):
    write_folder(tmp_path, classes=3, train=1, val=1)
    for path in (tmp_path / "val" / "n01").iterdir():
        path.unlink()
    (tmp_path / "val" / "n01").rmdir()
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(InputError, match="lacks class 'n01'"):
        check_classes(open_split(config, "train"), open_split(config, "val"))


@pytest.mark.parametrize(
    ("name", "nearest"), [("digit", "digits"), ("fashionmnist", "fashion_mnist")]
)
def test_an_unknown_dataset_is_named_with_the_nearest(name, nearest):
    with pytest.raises(InputError, match=nearest):
        open_split(DataConfig(name=name), "train")


@pytest.mark.parametrize("name", ["hfids/owner/name", "tfds/mnist", "wds/imagenet"])
def test_a_stream_that_is_not_read_is_named_with_what_to_use(name):
    with pytest.raises(InputError, match=name):
        open_split(DataConfig(name=name, root="cache"), "train")


def test_a_folder_without_its_kind_is_named_with_it(tmp_path):
    with pytest.raises(InputError, match=f"give 'folder:{tmp_path}'"):
        open_split(DataConfig(name=str(tmp_path)), "train")


def test_a_kind_without_a_path_is_refused(tmp_path, monkeypatch):
    """The current folder would be taken."""
    write_folder(tmp_path, classes=2, train=1, val=1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="needs a path"):
        open_split(DataConfig("folder:"), "train")


def test_a_setting_without_an_effect_is_named_with_the_kind_of_data(tmp_path):
    with pytest.raises(InputError, match=r"data\.boxes_only"):
        open_split(DataConfig(f"folder:{tmp_path}", boxes_only=True), "train")


def _folder(root, images):
    for split in ("train", "val"):
        for index, content in enumerate(images):
            path = root / split / f"n{index % 2}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return {"name": f"folder:{root}"}, "n0/2.jpg"


def _tar(root, images):
    files = [(f"n{index % 2}/{index}.jpg", content) for index, content in enumerate(images)]
    write_tar(root / "train.tar", files)
    write_tar(root / "val.tar", files)
    return {"name": f"tar:{root}"}, "val.tar/n0/2.jpg"


def _shards(root, images):
    write_tar(root / "train-0.tar", samples(images))
    write_tar(root / "val-0.tar", samples(images))
    return {"name": f"wds:{root}"}, "val-0.tar/0002.jpg"


def _rows(root, images):
    pytest.importorskip("datasets", reason="datasets is not installed")
    write_rows(root / "rows", {"train": images, "validation": images})
    return {"name": f"hf:{root / 'rows'}", "root": str(root / "cache")}, "row 2 of "


def _torchvision(root, images):
    _folder(root, images)
    shutil.copytree(root / "val", root / "validation")
    return {"name": "torch/image_folder", "root": str(root)}, "n0/2.jpg"


SOURCES = [_folder, _tar, _shards, _rows, _torchvision]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", SOURCES)
def test_each_source_names_damaged_images_and_decodes_odd_ones_as_rgb(tmp_path, source, workers):
    contents, pixels = zip(*odd_images().values(), strict=True)
    damaged = list(damaged_images().values())
    settings, name = source(tmp_path, [*contents[:2], *damaged, *contents[2:]])
    config = DataConfig(**settings, batch_size=5, num_workers=workers)
    data = open_split(config, "val")
    data.transform = lambda image: torch.from_numpy(np.array(image))
    batches = list(make_loader(data, config, training=False))
    found = [
        (image.numpy().tobytes(), label)
        for batch in batches
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True)
    ]
    labels = [0, 1, *((index + len(damaged)) % 2 for index in range(2, len(pixels)))]
    expected = [image.tobytes() for image in pixels]
    assert sorted(found) == sorted(zip(expected, labels, strict=True))
    bad = [name for batch in batches for name, _ in batch.unreadable]
    assert len({*bad}) == len(bad) == len(damaged)
    assert any(name in each for each in bad)
