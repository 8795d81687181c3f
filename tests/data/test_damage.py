"""A damaged image costs one item and one name, wherever it comes from."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pytest

from kat.data import DataConfig, UnreadableImage, decode, eval_transform, make_loader, open_split
from kat.data.decoding import as_rgb, decode_bytes
from kat.data.loaders import preprocessing
from tests.images import (
    damaged_images,
    encoded,
    noise,
    odd_images,
    picture,
    samples,
    write_info,
    write_rows,
    write_tar,
)


@pytest.mark.parametrize(("kind", "content"), damaged_images().items())
def test_what_is_no_image_is_named_with_a_reason(tmp_path, kind, content):
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match=r"bad\.jpg cannot be read as an image: .") as caught:
        decode(str(tmp_path / "bad.jpg"))
    assert "0x" not in caught.value.reason.replace(repr(content[:8]), "")


@pytest.mark.parametrize("kind", odd_images())
def test_odd_images_are_converted_without_a_word(kind):
    content, pixels = odd_images()[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = decode_bytes(content, kind)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableImage, match=r"absent\.jpg"):
        decode(str(tmp_path / "absent.jpg"))


def test_decoding_gives_the_pixels_that_pillows_own_way_gives(tmp_path):
    """The way of torchvision and timm: open, then convert."""
    from torchvision.datasets.folder import pil_loader

    for kind, mode in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"), ("WEBP", "RGB")):
        path = tmp_path / f"{mode}.{kind.lower()}"
        path.write_bytes(encoded(noise(mode), kind))
        theirs = np.asarray(pil_loader(str(path)))
        np.testing.assert_array_equal(np.asarray(decode(str(path))), theirs)


def test_an_rgb_image_is_not_copied():
    image = noise()
    assert as_rgb(image) is image


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


def _hub_stream(root, images):
    config, _ = _rows(root, images)
    return {**config, "name": f"hfids/{root / 'rows'}"}, "image 2 of "


def _shard_stream(root, images):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    write_tar(root / "val-0.tar", samples(images))
    write_info(root, "validation", {"val-0.tar": len(images)})
    return {"name": "wds/tiny", "root": str(root), "num_classes": 2}, "val-0.tar/0002"


def _torchvision(root, images):
    _folder(root, images)
    shutil.copytree(root / "val", root / "validation")
    return {"name": "torch/image_folder", "root": str(root)}, "n0/2.jpg"


SOURCES = [_folder, _tar, _shards, _rows, _hub_stream, _shard_stream, _torchvision]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("source", SOURCES)
def test_each_source_names_the_damaged_and_gives_the_others(tmp_path, source, workers):
    """Item 2 is damaged, in each way after the other; 0, 1 and 3 are not."""
    for number, (kind, content) in enumerate(damaged_images().items()):
        if workers and number:
            return
        images = [picture(0), picture(1), content, picture(3)]
        settings, name = source(tmp_path / str(number), images)
        config = DataConfig(**settings, image_size=16, batch_size=4, num_workers=workers)
        data = open_split(config, "val")
        data.transform = eval_transform(preprocessing(config, data))
        batches = list(make_loader(data, config, training=False))
        labels = sorted(label for batch in batches for label in batch.labels.tolist())
        assert labels == [0, 1, 1], kind
        ((bad, _),) = (bad for batch in batches for bad in batch.unreadable)
        assert name in bad, kind


@pytest.mark.parametrize("kind", odd_images())
@pytest.mark.parametrize("source", SOURCES)
def test_each_source_gives_odd_images_as_rgb(tmp_path, source, kind):
    content, pixels = odd_images()[kind]
    settings, _ = source(tmp_path, [content, content])
    data = open_split(DataConfig(**settings), "val")
    image, _ = next(iter(data))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels)
