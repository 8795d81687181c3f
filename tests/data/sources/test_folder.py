"""Image files in ImageNet's layout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from kat.data import (
    DataConfig,
    check_classes,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
)
from kat.errors import InputError
from tests.data.dense.coco_files import instances, write_coco
from tests.data.dense.mask_files import write_ade20k
from tests.images import write_folder


def test_folder_in_imagenet_layout(tmp_path):
    write_folder(tmp_path, classes=3, train=4, val=2)
    train = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(train) == 12
    assert train.classes == ["n00", "n01", "n02"]
    modes = {train[i][0].mode for i in range(len(train))}
    assert modes == {"RGB"}
    assert len({train[i][0].size for i in range(len(train))}) > 3
    check_classes(train, open_split(DataConfig(name=f"folder:{tmp_path}"), "val"))


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Val"), ("Train", "testing")])
def test_the_names_of_splits_may_be_in_any_case(tmp_path, names):
    write_folder(tmp_path, classes=2, train=4, val=2)
    for old, new in zip(("train", "val"), names, strict=True):
        (tmp_path / old).rename(tmp_path / new)
    train, val = (open_split(DataConfig(name=f"folder:{tmp_path}"), s) for s in ("train", "val"))
    assert train.classes == val.classes == ["n00", "n01"]
    is_kept = names[1].lower() == "testing"
    assert (len(train), len(val)) == ((6, 2) if is_kept else (8, 4))
    assert ("--data.val_split" in train.note) == is_kept
    assert "the classes are 'n00', 'n01'" in train.note or not is_kept


def test_bad_folders_are_named(tmp_path):
    config = DataConfig(name=f"folder:{tmp_path / 'absent'}")
    with pytest.raises(InputError, match="absent"):
        open_split(config, "train")
    config = DataConfig(name=f"folder:{tmp_path}")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=f"folder:{tmp_path.parent}$"):
        open_split(config, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(InputError, match=r"/train has no folder .* sort its images into folders"):
        open_split(config, "train")
    write_folder(tmp_path, classes=2, train=1, val=1)
    (tmp_path / "train" / "n00" / "notes.txt").write_text("a file of a class with images")
    (tmp_path / "train" / "n07").mkdir()
    (tmp_path / "train" / "junk").mkdir()
    with pytest.raises(InputError, match="'junk', 'n07'"):
        open_split(config, "train")


@pytest.mark.parametrize("masks", [False, True])
def test_a_folder_of_coco_is_recognized(tmp_path, masks):
    """With masks in annotations/, as some sets have, that folder would pass for a class."""
    write_coco(tmp_path, instances())
    if masks:
        write_ade20k(tmp_path)
    with pytest.raises(InputError, match=f"give coco:{tmp_path}$"):
        open_split(DataConfig(name=f"folder:{tmp_path}"), "train")


def test_files_that_are_not_images_are_listed_or_fatal(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "train" / "n00" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "n00" / ".hidden").write_text("")
    data = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(data) == 4
    assert [path.rsplit("/", 1)[-1] for path in data.ignored] == ["notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt: "):
        open_split(DataConfig(name=f"folder:{tmp_path}", bad_images="fail"), "train")


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path):
    """ImageNet-V2 has class folders "0" to "999"; "10" is class 10."""
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
    with pytest.raises(InputError, match="train' does not"):
        open_split(config, "train")


@pytest.mark.parametrize(
    ("link", "target"),
    [("n00/all", ".."), ("n00/all", "../.."), ("n00/val", "../../val"), ("n00/n01", "../n01")],
)
def test_links_that_lead_back_are_named_and_not_followed(tmp_path, link, target):
    """A link to the data's own folder used to multiply the images, those of validation too."""
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "train" / link).symlink_to(target)
    data = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(data) == 4
    ((path, reason),) = data.ignored.items()
    assert path == str(tmp_path / "train" / link)
    assert "a link back" in reason


def test_a_folder_elsewhere_is_read_once_however_many_links_lead_to_it(tmp_path):
    write_folder(tmp_path / "data", classes=1, train=2, val=1)
    write_folder(tmp_path / "more", classes=1, train=3, val=1)
    for name in ("a", "b"):
        link = tmp_path / "data" / "train" / "n00" / name
        link.symlink_to(tmp_path / "more" / "train")
    (tmp_path / "more" / "train" / "n00" / "back").symlink_to(tmp_path)
    data = open_split(DataConfig(name=f"folder:{tmp_path / 'data'}"), "train")
    assert len(data) == 2 + 3
    assert len(data.ignored) == 2


def test_what_is_no_regular_file_is_unreadable(tmp_path):
    write_folder(tmp_path, classes=2, train=1, val=1)
    folder = tmp_path / "train" / "n00"
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "gone.jpg").symlink_to("absent")
    config = DataConfig(name=f"folder:{tmp_path}", image_size=8, batch_size=5)
    data = open_split(config, "train")
    data.transform = eval_transform(preprocessing(config, data))
    (batch,) = make_loader(data, config, training=False)
    assert {Path(path).name: reason for path, reason in batch.unreadable} == {
        "device.jpg": "it is not a regular file",
        "gone.jpg": "it does not exist",
        "pipe.jpg": "it is not a regular file",
    }
