"""Data sets by name, and what is said about bad ones."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from kat.data import (
    AugmentConfig,
    DataConfig,
    UnreadableImage,
    check_classes,
    decode,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
)
from kat.errors import InputError
from tests.images import write_fashion_mnist, write_folder, write_idx


def test_digits_are_a_fixed_stratified_split():
    train, val = (open_split(DataConfig(), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (1437, 360)
    counts = np.bincount([val[i][1] for i in range(len(val))])
    assert counts.min() >= 35
    assert counts.max() <= 37
    both = [data[i][0] for data in (train, val) for i in range(len(data))]
    ours = sorted(np.asarray(image).tobytes() for image in both)
    images = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    assert ours == sorted(image.tobytes() for image in images)
    again = open_split(DataConfig(), "val")
    assert [again[i][1] for i in range(50)] == [val[i][1] for i in range(50)]


@pytest.fixture
def fashion(tmp_path):
    write_fashion_mnist(tmp_path, train=40, val=20)
    return tmp_path


def test_fashion_mnist_from_idx_files(fashion):
    data = open_split(DataConfig(name=f"fashion_mnist:{fashion}"), "val")
    assert len(data) == 20
    assert data.classes[8] == "Bag"
    raw = gzip.decompress((fashion / "t10k-images-idx3-ubyte.gz").read_bytes())
    image, label = data[13]
    assert label == 3
    assert np.asarray(image).tobytes() == raw[16 + 13 * 784 : 16 + 14 * 784]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "train-labels-idx1-ubyte.gz").unlink(), "train-labels.* is missing"),
        (
            lambda d: (d / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip"),
            "not a complete gzip",
        ),
        (
            lambda d: (d / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"abcdefgh")),
            "not an idx file of bytes with 3 dimensions",
        ),
        (
            lambda d: write_idx(d / "train-labels-idx1-ubyte.gz", np.zeros(39, dtype=np.uint8)),
            "40 images, but 39 labels",
        ),
    ],
)
def test_damaged_idx_files_are_named(fashion, damage, message):
    damage(fashion)
    with pytest.raises(InputError, match=message):
        open_split(DataConfig(name=f"fashion_mnist:{fashion}"), "train")


def test_folder_in_imagenet_layout(tmp_path):
    write_folder(tmp_path, classes=3, train=4, val=2)
    train = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(train) == 12
    assert train.classes == ["n00", "n01", "n02"]
    modes = {train[i][0].mode for i in range(len(train))}
    assert modes == {"RGB"}
    assert len({train[i][0].size for i in range(len(train))}) > 3
    check_classes(train, open_split(DataConfig(name=f"folder:{tmp_path}"), "val"))


@pytest.mark.parametrize("name", ["validation", "test"])
def test_other_names_of_the_validation_folder(tmp_path, name):
    write_folder(tmp_path, classes=2, train=1, val=1)
    (tmp_path / "val").rename(tmp_path / name)
    assert len(open_split(DataConfig(name=f"folder:{tmp_path}"), "val")) == 2


def test_bad_folders_are_named(tmp_path):
    config = DataConfig(name=f"folder:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="absent' does not exist"):
        open_split(config, "train")
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(InputError, match="has no folder 'train' or 'training'"):
        open_split(config, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match="is empty: it must hold one folder a class"):
        open_split(config, "train")
    write_folder(tmp_path, classes=2, train=1, val=1)
    (tmp_path / "train" / "n07").mkdir()
    with pytest.raises(InputError, match="has no image for class 'n07'"):
        open_split(config, "train")


def test_a_class_missing_in_one_split_is_named(tmp_path):
    write_folder(tmp_path, classes=3, train=1, val=1)
    for path in (tmp_path / "val" / "n01").iterdir():
        path.unlink()
    (tmp_path / "val" / "n01").rmdir()
    config = DataConfig(name=f"folder:{tmp_path}")
    with pytest.raises(InputError, match="the val split lacks class 'n01'"):
        check_classes(open_split(config, "train"), open_split(config, "val"))


def test_files_that_are_no_images_are_listed_or_fatal(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "train" / "n00" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "n00" / ".hidden").write_text("")
    data = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(data) == 4
    assert [path.rsplit("/", 1)[-1] for path in data.ignored] == ["notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt: it is not named as an image"):
        open_split(DataConfig(name=f"folder:{tmp_path}", bad_images="fail"), "train")


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 torn"])
def test_unreadable_images_are_named(tmp_path, content):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg"):
        decode(str(path))


def test_truncated_image_is_unreadable(tmp_path):
    path = tmp_path / "half.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UnreadableImage):
        decode(str(path))


def test_timm_name_torch(tmp_path):
    write_folder(tmp_path, classes=2, train=3, val=1)
    config = DataConfig(name="torch/image_folder", root=str(tmp_path))
    data = open_split(config, "train")
    assert (len(data), data.classes) == (6, ["n00", "n01"])
    assert data[0][0].mode == "RGB"


def test_timm_name_wds(tmp_path):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    with tarfile.open(tmp_path / "train-000000.tar", "w") as shard:
        for index in range(6):
            picture = io.BytesIO()
            Image.new("RGB", (40, 30), (40 * index, 0, 0)).save(picture, "JPEG")
            for suffix, content in (("jpg", picture.getvalue()), ("cls", b"%d" % (index % 2))):
                entry = tarfile.TarInfo(f"{index:04}.{suffix}")
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
    split = {"name": "train", "num_samples": 6, "shard_lengths": [6]}
    split["filenames"] = ["train-000000.tar"]
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    config = DataConfig(
        name="wds/tiny", root=str(tmp_path), num_classes=2, image_size=32, batch_size=3
    )
    data = open_split(config, "train")
    data.transform = eval_transform(preprocessing(config, data))
    batches = list(make_loader(data, config, training=True))
    assert sorted(torch.cat([batch.labels for batch in batches]).tolist()) == [0, 0, 0, 1, 1, 1]
    assert batches[0].images.shape == (3, 3, 32, 32)
    with pytest.raises(InputError, match=r"does not say which classes.*data\.num_classes"):
        open_split(dataclasses.replace(config, num_classes=None), "train")


def test_timm_names_that_fail_are_explained(tmp_path):
    with pytest.raises(InputError, match="'torch/nothing' cannot be opened"):
        open_split(DataConfig(name="torch/nothing", root=str(tmp_path)), "train")
    with pytest.raises(InputError, match="'torch/cifar10' cannot be opened with root="):
        open_split(DataConfig(name="torch/cifar10", root=str(tmp_path)), "train")


@pytest.mark.parametrize(
    ("name", "nearest"), [("digit", "digits"), ("fashionmnist", "fashion_mnist")]
)
def test_unknown_data_set_is_named_with_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f"unknown data set '{name}'; did you mean '{nearest}'"):
        open_split(DataConfig(name=name), "train")


def test_default_augmentation_is_none():
    augment = AugmentConfig()
    assert (augment.scale, augment.ratio) == ((1.0, 1.0), (1.0, 1.0))
    assert augment.hflip == augment.mixup == augment.cutmix == augment.random_erasing == 0


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path):
    """ImageNet-V2's layout: class folders "0" to "999", of which "10" is class 10."""
    for number in range(12):
        (tmp_path / str(number)).mkdir()
        Image.new("RGB", (4, 4), (20 * number, 0, 0)).save(tmp_path / str(number) / "a.png")
    config = DataConfig(name=f"folder:{tmp_path}", holdout=0)
    val = open_split(config, "val")
    assert val.classes == [str(number) for number in range(12)]
    for index in range(12):
        image, label = val[index]
        assert image.getpixel((0, 0))[0] == 20 * label
        assert val.name(index) == str(tmp_path / str(label) / "a.png")
    with pytest.raises(InputError, match="has no folder 'train' or 'training'"):
        open_split(config, "train")


def test_a_part_of_a_split_is_spread_over_it(tmp_path):
    write_folder(tmp_path, classes=3, train=1, val=4)
    val = open_split(DataConfig(name=f"folder:{tmp_path}"), "val")
    part = val.spread(6)
    assert [part[i][1] for i in range(len(part))] == [0, 0, 1, 1, 2, 2]
    assert [part.name(i) for i in range(6)] == [val.name(2 * i) for i in range(6)]
    assert len(val.spread(100)) == len(val) == 12
    assert [val.spread(100).name(i) for i in range(12)] == [val.name(i) for i in range(12)]
