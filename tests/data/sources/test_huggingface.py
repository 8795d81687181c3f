"""Hugging Face datasets on this machine."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kat.data import DataConfig, ImageDataset, UnreadableImage, open_split
from kat.data.sources.huggingface import RowSource
from kat.errors import InputError
from tests.images import picture, write_rows

datasets = pytest.importorskip("datasets", reason="datasets is not installed")
datasets.disable_progress_bars()


@pytest.fixture
def rows(tmp_path):
    splits = {"train": [picture(i) for i in range(4)], "validation": [picture(i) for i in range(3)]}
    write_rows(tmp_path / "rows", splits)
    return tmp_path / "rows"


@pytest.fixture
def config(rows, tmp_path):
    return {"name": f"hf:{rows}", "root": str(tmp_path / "cache")}


def _saved(folder, columns, features=None):
    """Writes a dataset with save_to_disk, with the same rows in both splits."""
    table = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(folder)
    return DataConfig(name=f"hf:{folder}")


def _images(count=3):
    return [{"bytes": picture(index), "path": None} for index in range(count)]


def test_parquet_files_in_a_folder(config):
    train, val = (open_split(DataConfig(**config), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 3)
    assert train.classes == ["cat", "dog"]
    for index in range(4):
        assert train.source.read(index) == (picture(index), index % 2)
    image, label = train[3]
    np.testing.assert_array_equal(np.asarray(image), Image.open(io.BytesIO(picture(3))))
    assert label == 1
    same = open_split(DataConfig(config["name"].replace("hf:", "hfds/"), config["root"]), "train")
    assert [same.source.read(index)[1] for index in range(4)] == [0, 1, 0, 1]
    assert val.name(2).startswith("row 2 of ")
    assert val.name(2).endswith("rows validation")


def test_one_split_of_save_to_disk(tmp_path, rows, config):
    splits = datasets.load_dataset(str(rows), cache_dir=config["root"])
    splits["validation"].save_to_disk(tmp_path / "saved")
    settings = DataConfig(name=f"hf:{tmp_path / 'saved'}")
    assert len(open_split(settings, "val")) == 3
    with pytest.raises(InputError, match=r"data\.train_split.* 'train'"):
        open_split(settings, "train")


def test_a_missing_file_of_a_row_is_named_by_the_row():
    rows = [
        *({"image": image} for image in _images(2)),
        {"image": {"bytes": None, "path": "x.png"}},
    ]
    data = ImageDataset(RowSource(rows, "image", np.zeros(3, np.int64), "rows"), ["a"])
    assert data[1][1] == 0
    with pytest.raises(UnreadableImage) as caught:
        data[2]
    assert "x.png" in caught.value.reason


def test_a_name_in_the_cache_needs_no_network(config, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert len(open_split(DataConfig(**config), "train")) == 4
    with pytest.raises(InputError, match=r"'hf:nobody/nothing' .*download=true"):
        open_split(DataConfig(name="hf:nobody/nothing", root=config["root"]), "train")
    assert not datasets.config.HF_HUB_OFFLINE


def test_unknown_splits_and_columns_are_named(config):
    with pytest.raises(InputError, match=r"split \(data\.val_split\).*'validaton'.*'validation'"):
        open_split(DataConfig(**config, val_split="validaton"), "val")
    with pytest.raises(InputError, match=r"data\.label_key"):
        open_split(DataConfig(**config, label_key="lable"), "val")


def test_a_share_is_held_out_where_there_is_no_validation_split(tmp_path, rows, config):
    (tmp_path / "whole").mkdir()
    (rows / "train-00000.parquet").rename(tmp_path / "whole" / "train-00000.parquet")
    whole = DataConfig(f"hf:{tmp_path / 'whole'}", config["root"], holdout=0.5)
    train, val = (open_split(whole, split) for split in ("train", "val"))
    assert "2 of its 4" in val.note
    read = [data.source.read(index) for data in (train, val) for index in range(len(data))]
    assert sorted(read) == sorted((picture(index), index % 2) for index in range(4))
    with pytest.raises(InputError, match=r"data\.val_split.*'test'"):
        open_split(replace(whole, val_split="test"), "val")


def test_columns_are_chosen_where_there_are_several(tmp_path):
    labels = datasets.ClassLabel(names=["a", "b", "c"])
    columns = {
        "photo": (datasets.Image(), _images()),
        "mask": (datasets.Image(), _images()),
        "coarse": (labels, [0, 0, 1]),
        "fine": (labels, [2, 1, 0]),
        "number": (datasets.Value("int64"), [4, 0, 2]),
        "negative": (datasets.Value("int64"), [0, -1, 2]),
        "gap": (datasets.Value("int64"), [0, None, 2]),
        "word": (datasets.Value("string"), ["owl", "ant", "owl"]),
    }
    features = datasets.Features({name: kind for name, (kind, _) in columns.items()})
    values = {name: value for name, (_, value) in columns.items()}
    config = _saved(tmp_path / "many", values, features)
    with pytest.raises(InputError, match="'photo', 'mask' for"):
        open_split(config, "train")
    config.image_key = "mask"
    with pytest.raises(InputError, match="'coarse', 'fine' for"):
        open_split(config, "train")
    for key, classes, expected in (
        ("fine", ["a", "b", "c"], [2, 1, 0]),
        ("number", ["0", "1", "2", "3", "4"], [4, 0, 2]),
        ("word", ["ant", "owl"], [1, 0, 1]),
    ):
        config.label_key = key
        data = open_split(config, "train")
        assert data.classes == classes
        assert [data.source.read(index)[1] for index in range(3)] == expected
    for config.label_key in ("negative", "gap"):
        with pytest.raises(InputError, match="in every row"):
            open_split(config, "train")
