"""WebDataset shards as streams."""

from __future__ import annotations

from itertools import chain

import pytest
import torch

from kat.data import DataConfig, ImageStream, UnreadableImage, make_loader, open_split
from kat.data.sources.shard_stream import ShardStream
from kat.errors import InputError
from tests.images import picture, samples, write_info, write_tar

pytest.importorskip("webdataset", reason="webdataset is not installed")


@pytest.fixture
def stream(shards):
    """The training split as a stream."""
    return ShardStream([str(path) for path in sorted(shards.glob("train-*"))], None, True, seed=0)


def _names(items):
    return [item[0].rsplit("/", 1)[-1] for item in items]


def test_the_order_of_a_stream_is_a_function_of_seed_and_epoch(stream):
    first = _names(stream(0, (0, 1)))
    assert sorted(first) == [f"{index:04}" for index in range(12)]
    assert first == _names(stream(0, (0, 1)))
    assert first != _names(stream(1, (0, 1)))
    other = ShardStream(stream.urls, None, True, seed=1)
    assert first != _names(other(0, (0, 1)))


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_the_parts_of_a_stream_cover_it(stream, parts):
    names = [_names(stream(0, (index, parts))) for index in range(parts)]
    assert sorted(chain.from_iterable(names)) == [f"{index:04}" for index in range(12)]
    assert min(map(len, names)) > 0


def test_a_damaged_shard_costs_the_rest_of_it(stream, shards):
    path = shards / "train-0001.tar"
    path.write_bytes(path.read_bytes()[:3200])
    items = list(stream(0, (0, 1)))
    (bad,) = (item for item in items if isinstance(item, UnreadableImage))
    assert bad.name == str(path)
    readable = _names(item for item in items if not isinstance(item, UnreadableImage))
    assert {f"{index:04}" for index in (0, 1, 2, 3, 8, 9, 10, 11)} <= set(readable)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_yield_full_batches_and_see_the_epoch(shards, workers):
    write_info(shards, "train", {f"train-000{number}.tar": 4 for number in range(3)})
    config = DataConfig(
        name="wds/tiny", root=str(shards), num_classes=2, batch_size=4, num_workers=workers
    )
    data = open_split(config, "train")
    data.transform = lambda image: torch.tensor(image.getpixel((0, 0)))
    loader = make_loader(data, config, training=True)
    assert len(loader) == 3
    epochs = []
    for epoch in (0, 0, 1):
        loader.start_at(epoch, 0)
        batches = list(loader)
        assert [len(batch.labels) for batch in batches] == [4, 4, 4]
        epochs.append(torch.cat([batch.images for batch in batches]).tolist())
    assert epochs[0] == epochs[1] != epochs[2]
    loader.start_at(1, 2)
    assert torch.cat([batch.images for batch in loader]).tolist() == epochs[2][8:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_label_in_a_stream_is_one_line(tmp_path, workers):
    """The label is in the last item, in a batch that would not be full."""
    files = samples([picture(i) for i in range(3)])
    write_tar(tmp_path / "train-0.tar", [*files, ("9.jpg", files[0][1]), ("9.cls", b"cat")])
    write_info(tmp_path, "train", {"train-0.tar": 4})
    config = DataConfig(
        name="wds/tiny", root=str(tmp_path), num_classes=2, batch_size=4, num_workers=workers
    )
    data = open_split(config, "train")
    data.transform = lambda image: torch.tensor(image.getpixel((0, 0)))
    with pytest.raises(InputError, match=r"^.*train-0\.tar/9: \.cls must[^\n]*$"):
        list(make_loader(data, config, training=True))


def test_a_stream_of_unknown_length_or_classes_is_refused(shards):
    write_info(shards, "validation", {})
    config = DataConfig(name="wds/tiny", root=str(shards), num_classes=2)
    with pytest.raises(InputError, match="number of images"):
        open_split(config, "val")
    config.num_classes = None
    with pytest.raises(InputError, match=r"data\.num_classes"):
        open_split(config, "val")


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_of_a_stream_that_is_no_class_is_named(label):
    stream = ImageStream(lambda epoch, part: [("a.png", b"", label)], 1, ["a", "b"], None)
    with pytest.raises(InputError, match=rf"^a\.png has the label {label}, but the 2"):
        next(iter(stream))


def test_a_part_without_images_is_an_error_not_an_endless_loop():
    stream = ImageStream(lambda epoch, part: iter(()), 8, ["0"], batch_size=4)
    with pytest.raises(InputError, match="part 1 of"):
        list(stream)
