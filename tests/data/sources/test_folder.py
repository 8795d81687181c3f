"""Image files in ImageNet's layout."""

from __future__ import annotations

import pytest
from PIL import Image

from kat.data import (
    DataConfig,
    check_classes,
    open_split,
)
from kat.errors import InputError
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
    with pytest.raises(InputError, match="is empty: it must hold one folder per class"):
        open_split(config, "train")
    write_folder(tmp_path, classes=2, train=1, val=1)
    (tmp_path / "train" / "n07").mkdir()
    with pytest.raises(InputError, match="has no image for class 'n07'"):
        open_split(config, "train")


def test_files_that_are_not_images_are_listed_or_fatal(tmp_path):
    write_folder(tmp_path, classes=2, train=2, val=1)
    (tmp_path / "train" / "n00" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "n00" / ".hidden").write_text("")
    data = open_split(DataConfig(name=f"folder:{tmp_path}"), "train")
    assert len(data) == 4
    assert [path.rsplit("/", 1)[-1] for path in data.ignored] == ["notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt: it is not named as an image"):
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
    with pytest.raises(InputError, match="has no folder 'train' or 'training'"):
        open_split(config, "train")
