"""By what changed data is noticed, for every kind of source."""

from __future__ import annotations

import json

import pytest

from kat.data import DataConfig, data_record, differences, located, open_split
from tests.data.dense.coco_files import instances, write_coco
from tests.data.dense.mask_files import write_ade20k
from tests.data.sources.test_registry import SOURCES
from tests.images import picture, write_folder


def _identity(settings):
    config = DataConfig(**settings)
    data = open_split(config, "val")
    return json.loads(json.dumps(data_record(config, data, data)))


@pytest.mark.parametrize("source", SOURCES)
def test_another_place_is_the_same_data_and_another_number_of_images_is_not(tmp_path, source):
    images = [picture(number) for number in range(4)]
    here, there, more = (
        _identity(source(tmp_path / name, own)[0])
        for name, own in (("here", images), ("there", images), ("more", [*images, picture(4)]))
    )
    assert differences(here, there) == []
    assert "4 images and" in differences(here, more)[1]


def test_a_class_folder_or_a_file_that_is_renamed_or_moved_is_noticed(tmp_path):
    write_folder(tmp_path, classes=3, train=4, val=2)
    settings = {"name": f"folder:{tmp_path}"}

    def now():
        config = DataConfig(**settings)
        return data_record(config, open_split(config, "train"), open_split(config, "val"))

    start = now()
    for split in ("train", "val"):
        (tmp_path / split / "n01").rename(tmp_path / split / "n09")
    other = "split has other files, other labels or another order"
    assert differences(start, now()) == [
        "class 'n01' missing", "class 'n09' new", f"the train {other}", f"the val {other}"
    ]  # fmt: skip
    start = now()
    (tmp_path / "val" / "n00" / "0.jpg").rename(tmp_path / "val" / "n02" / "00.jpg")
    assert differences(start, now()) == [f"the val {other}"]
    (order,) = differences({**start, "classes": start["classes"][::-1]}, start)
    assert "another order" in order


def test_a_box_of_coco_and_a_mask_by_another_name_are_noticed(tmp_path):
    write_coco(tmp_path)
    write_ade20k(tmp_path)
    names = [{"name": f"{kind}:{tmp_path}"} for kind in ("coco", "ade20k")]
    start = list(map(_identity, names))
    content = instances()
    content["annotations"][0]["bbox"][2] += 1
    write_coco(tmp_path, content)
    for file in tmp_path.glob("*/validation/ADE_1.*"):
        file.rename(file.with_stem("ADE_7"))
    for before, name in zip(start, names, strict=True):
        assert "other files" in differences(before, _identity(name))[1]


def test_a_pixel_of_a_small_data_set_is_noticed():
    config = DataConfig(name="digits")
    data = open_split(config, "val")
    start = data_record(config, data, data)
    data.source.pixels[0, 0, 0] ^= 1
    assert len(differences(start, data_record(config, data, data))) == 2
    assert start["paths"] == {}


@pytest.mark.parametrize(
    ("name", "root"),
    [("coco:../here/a", None), ("wds:a/train-{0..3}.tar", None), ("hf:a", "a"), ("torch/x", "a")],
)
def test_relative_paths_are_found_from_another_folder_while_they_exist(
    tmp_path, monkeypatch, name, root
):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    (here / "a").mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    data = open_split(DataConfig(name="digits"), "val")
    record = data_record(DataConfig(name=name, root=root), data, data)
    monkeypatch.chdir(elsewhere)
    found = located({"name": name, "root": root}, record)
    prefix, colon, path = name.partition(":")
    assert found["name"] == (f"{prefix}:{(here / path).resolve()}" if colon else name)
    assert found["root"] == (root and str(here / root))
    (here / "a").rename(elsewhere / "a")  # moved with the run, to another machine, ...
    assert located({"name": name, "root": root}, record) == {"name": name, "root": root}
    assert data_record(DataConfig(name="hf:owner/data"), data, data)["paths"] == {}
