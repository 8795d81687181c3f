"""Datasets of torchvision, which timm opens."""

from __future__ import annotations

import pytest

from kat.data import DataConfig, open_split
from kat.errors import InputError
from tests.images import write_folder


def test_a_folder_without_the_split_is_refused(tmp_path):
    """timm would take the folder itself, for both splits."""
    write_folder(tmp_path, classes=2, train=3, val=1)
    for root, line in ((tmp_path / "train", "no split 'train'"), (tmp_path, "no split 'x'")):
        config = DataConfig(name="torch/image_folder", root=str(root))
        config.train_split = "train" if root.name == "train" else "x"
        with pytest.raises(InputError, match=rf"{line} \(data\.train_split\) in root="):
            open_split(config, "train")


def test_timm_names_that_fail_are_explained(tmp_path):
    with pytest.raises(InputError, match="'torch/nothing'"):
        open_split(DataConfig(name="torch/nothing", root=str(tmp_path)), "train")
    with pytest.raises(InputError, match=r"^torch/cifar10 needs data\.root"):
        open_split(DataConfig(name="torch/cifar10"), "train")
    with pytest.raises(InputError, match="'torch/cifar10' cannot be opened with root="):
        open_split(DataConfig(name="torch/cifar10", root=str(tmp_path)), "train")
