"""Small datasets in arrays."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kat.data import DataConfig, open_split
from kat.errors import InputError
from tests.images import write_fashion_mnist


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


def test_a_missing_idx_file_is_named(fashion):
    (fashion / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"train-labels.* does"):
        open_split(DataConfig(name=f"fashion_mnist:{fashion}"), "train")
