"""The held-out validation split of folders that have none."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kat.data import DataConfig, open_split
from kat.data.sources.holdout import held_out
from kat.errors import InputError
from tests.images import write_fashion_mnist, write_folder

SPLITS = ("train", "val")


def test_a_share_of_each_class_is_held_out_by_name():
    names = [f"{label}/{i}.jpg" for label, count in enumerate((1, 2, 10, 35)) for i in range(count)]
    labels = [int(name[0]) for name in names]
    kept_back = held_out(names, labels, 0.1)
    counts = Counter(label for label, back in zip(labels, kept_back, strict=True) if back)
    assert counts == {1: 1, 2: 1, 3: 4}  # never the last image, at least one, round(3.5)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    tens = sorted((name for name in names if name[0] == "2"), key=digests.__getitem__)
    assert [n for n, back in zip(names, kept_back, strict=True) if back and n[0] == "2"] == tens[:1]
    order = names[::-1]
    again = held_out(order, labels[::-1], 0.1)
    assert dict(zip(order, again, strict=True)) == dict(zip(names, kept_back, strict=True))


def _paths(images):
    paths = [Path(images.name(index)) for index in range(len(images))]
    return {path.relative_to(path.parent.parent).as_posix() for path in paths}


@pytest.mark.parametrize("layout", ["train folder", "classes alone", "classes beside test"])
def test_a_folder_without_a_validation_split(tmp_path, layout):
    write_folder(tmp_path, classes=3, train=8, val=1)
    (tmp_path / "val").rename(tmp_path / "test")
    if layout != "classes beside test":
        shutil.rmtree(tmp_path / "test")
    if layout != "train folder":
        for folder in (tmp_path / "train").iterdir():
            folder.rename(tmp_path / folder.name)
        (tmp_path / "train").rmdir()
    config = DataConfig(name=f"folder:{tmp_path}", holdout=0.25)
    train, val = open_split(config, "train"), open_split(config, "val")
    assert (len(train), len(val)) == (18, 6)
    assert not _paths(train) & _paths(val)
    assert len(_paths(train) | _paths(val)) == 24
    assert Counter(val[i][1] for i in range(len(val))) == {0: 2, 1: 2, 2: 2}
    assert train.classes == val.classes == ["n00", "n01", "n02"]
    assert "6 of its 24" in val.note
    missing = "val" if layout == "train folder" else "train"
    with pytest.raises(InputError, match=f"{missing}' does not"):
        open_split(DataConfig(name=f"folder:{tmp_path}", holdout=0), missing)


def test_a_folder_for_testing_is_left_alone_until_it_is_named(tmp_path):
    write_folder(tmp_path, classes=2, train=5, val=3)
    (tmp_path / "val").rename(tmp_path / "test")
    config = DataConfig(name=f"folder:{tmp_path}")
    train, val = open_split(config, "train"), open_split(config, "val")
    assert (len(train), len(val)) == (8, 2)
    assert "--data.val_split test" in train.note
    for named in ({"val_split": "test"}, {"holdout": 0.0}):
        tested = open_split(replace(config, **named), "val")
        assert len(tested) == 6
        assert Path(tested.name(0)).parent.parent == tmp_path / "test"
    with pytest.raises(InputError, match="tests"):
        open_split(replace(config, val_split="tests"), "val")


def test_the_training_split_is_parted_and_the_own_split_left_alone(tmp_path):
    write_folder(tmp_path, classes=2, train=10, val=3)
    own = DataConfig(name=f"folder:{tmp_path}", holdout=0.3)
    parted = replace(own, validate_on="holdout")
    train, val = open_split(parted, "train"), open_split(parted, "val")
    whole = _paths(open_split(own, "train"))
    assert not _paths(train) & _paths(val)
    assert _paths(train) | _paths(val) == whole
    assert len(whole) == 20
    assert Counter(name[:3] for name in _paths(val)) == {"n00": 3, "n01": 3}
    assert val.note.startswith(
        f"the training split of folder:{tmp_path}: 6 of its 20 images, 0.3 of each"
    )
    assert {Path(open_split(own, "val").name(i)).parts[-3] for i in range(6)} == {"val"}


def _pixels(images):
    return Counter(
        np.asarray(image).tobytes() for image, _ in map(images.__getitem__, range(len(images)))
    )


def test_arrays_are_parted_by_class(tmp_path):
    write_fashion_mnist(tmp_path, train=200, val=20)
    for name in (f"fashion_mnist:{tmp_path}", "digits"):
        own, parted = DataConfig(name=name), DataConfig(name=name, validate_on="holdout")
        whole, train, val = open_split(own, "train"), *(open_split(parted, s) for s in SPLITS)
        assert _pixels(train) + _pixels(val) == _pixels(whole)
        labels = Counter(whole[i][1] for i in range(len(whole)))
        held = Counter(val[i][1] for i in range(len(val)))
        assert held == {label: round(count / 10) for label, count in labels.items()}
        assert not _pixels(val) & _pixels(open_split(own, "val"))
        assert (train.classes, val.image_size) == (whole.classes, whole.image_size)


def test_other_sources_cannot_be_parted():
    with pytest.raises(InputError, match=r"data\.validate_on=holdout has no"):
        open_split(DataConfig(name="tar:x", validate_on="holdout"), "train")
