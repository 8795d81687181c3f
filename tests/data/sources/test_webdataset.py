"""WebDataset shards on local disks, and as streams."""

from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest
import torch

from kat.data import DataConfig, UnreadableImage, eval_transform, make_loader, open_split
from kat.data.dataset import ImageStream
from kat.data.loaders import preprocessing
from kat.data.sources.shard_layout import expand_braces
from kat.data.sources.shard_stream import ShardStream
from kat.errors import InputError
from tests.images import picture, samples, write_info, write_tar


@pytest.fixture
def shards(tmp_path):
    """Three shards of 4 training images, labels 0 and 1 in turn, and one of 3 to validate on."""
    for number in range(3):
        images = [picture(4 * number + i) for i in range(4)]
        write_tar(tmp_path / f"train-{number:04}.tar", samples(images, start=4 * number))
    write_tar(tmp_path / "val-0000.tar", samples([picture(i) for i in range(3)]))
    return tmp_path


def _open(pattern, split="train", **settings):
    return open_split(DataConfig(name=f"wds:{pattern}", **settings), split)


@pytest.mark.parametrize(
    "pattern", ["", "/{train,val}-{0000..0000}.tar", "/train-{0000..0002}.tar"]
)
def test_a_folder_or_names_with_braces(shards, pattern):
    data = _open(f"{shards}{pattern}")
    count = 4 if "val" in pattern else 12
    assert len(data) == count
    assert data.classes == ["0", "1"]
    assert data.name(count - 1) == f"{shards}/train-000{count // 4 - 1}.tar/{count - 1:04}.jpg"
    for index in range(count):
        assert data.source.read(index) == (picture(index), index % 2)


def test_the_samples_are_those_of_the_package_webdataset(shards):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    urls = [str(shards / f"train-000{number}.tar") for number in range(3)]
    theirs = webdataset.WebDataset(urls, shardshuffle=False)
    data = _open(shards)
    ours = [data.source.read(index) for index in range(len(data))]
    assert ours == [(sample["jpg"], int(sample["cls"])) for sample in theirs]


def test_splits_are_told_by_words_in_the_names(tmp_path):
    write_tar(tmp_path / "imagenet1k-train-0000.tar", samples([picture()] * 4))
    write_tar(tmp_path / "imagenet1k-validation-00.tar", samples([picture()] * 2))
    assert len(_open(tmp_path)) == 4
    assert len(_open(tmp_path, "val")) == 2
    (tmp_path / "imagenet1k-validation-00.tar").unlink()
    with pytest.raises(InputError, match=r"no shard of the val split.*'val' or 'validation'"):
        _open(tmp_path, "val")


def test_class_names_come_from_a_file(shards):
    (shards / "classes.txt").write_text("cat\ndog\nfish\n")
    assert _open(shards).classes == ["cat", "dog", "fish"]
    (shards / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(InputError, match=r"classes\.txt must hold one class name a line.*'cat'"):
        _open(shards)
    (shards / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"0001\.jpg has the label 1, but the 1 classes are 0 to"):
        _open(shards)


def test_the_number_of_classes_is_that_of_all_splits_or_is_given(shards):
    write_tar(shards / "train-0003.tar", [("a.jpg", picture()), ("a.cls", b"7\n")])
    assert len(_open(shards, "val").classes) == 8
    assert len(_open(shards, "val", num_classes=10).classes) == 10
    with pytest.raises(InputError, match="has the label 7, but the 2 classes are 0 to 1"):
        _open(shards, num_classes=2)


def test_labels_in_json(tmp_path):
    files = [("a.png", picture()), ("a.json", b'{"label": 3, "text": "a cat"}')]
    files += [("b.JPEG", picture()), ("b.json", b'{"label": 0}')]
    write_tar(tmp_path / "train-0.tar", files)
    data = _open(tmp_path, label_key="label")
    assert [data[index][1] for index in range(2)] == [3, 0]
    assert len(data.classes) == 4
    with pytest.raises(InputError, match=r"a: the field 'text' of \.json must hold a class index"):
        _open(tmp_path, label_key="text")
    with pytest.raises(InputError, match=r"hold no image .* with a label"):
        _open(tmp_path)


def test_timms_info_file_names_shards_and_label_field(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", picture()), ("0.json", b'{"coarse": 1}')])
    write_tar(tmp_path / "train-unlisted.tar", samples([picture()]))
    split = {"name": "train", "filenames": ["a.tar"], "num_samples": 1, "shard_lengths": [1]}
    split["alt_label"] = "coarse"
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": split}}))
    data = _open(tmp_path)
    assert [data.source.read(index)[1] for index in range(len(data))] == [1]
    (tmp_path / "_info.json").write_text("[]")
    with pytest.raises(InputError, match=r"_info\.json does not describe splits"):
        _open(tmp_path)


def test_samples_without_label_or_image_are_named(tmp_path):
    files = [*samples([picture()]), ("1.jpg", picture()), ("2.cls", b"0"), ("2.txt", b"no image")]
    write_tar(tmp_path / "train-0.tar", files)
    data = _open(tmp_path)
    assert len(data) == 1
    assert data.ignored == {
        f"{tmp_path}/train-0.tar/1.jpg": "it has no label",
        f"{tmp_path}/train-0.tar/2": "there is no image of this name",
    }
    with pytest.raises(InputError, match=r"1\.jpg: it has no label \(2 such in "):
        _open(tmp_path, bad_images="fail")


@pytest.mark.parametrize("more", [[("0000.jpg", b"")], [("x.jpg", b""), ("0000.jpg", b"")]])
def test_a_sample_that_occurs_twice_is_named(tmp_path, more):
    write_tar(tmp_path / "train-0.tar", [*samples([picture()]), *more])
    with pytest.raises(InputError, match=r"train-0\.tar holds the sample '0000' twice"):
        _open(tmp_path)


@pytest.mark.parametrize("text", [b"cat", b"-1", b"", b"1.5"])
def test_a_label_that_is_no_index_is_named(tmp_path, text):
    write_tar(tmp_path / "train-0.tar", [("a.jpg", picture()), ("a.cls", text)])
    with pytest.raises(InputError, match=r"train-0\.tar/a: \.cls must hold a class index, got "):
        _open(tmp_path)


def test_missing_shards_are_named(tmp_path, shards):
    with pytest.raises(InputError, match=r"train-0003\.tar does not exist \(2 of 5 such\)"):
        _open(f"{shards}/train-{{0000..0004}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no \.tar file"):
        _open(tmp_path / "empty")


def test_braces():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("plain") == ["plain"]
    for bad in ("{a}", "{2..1}", "{a..c}"):
        with pytest.raises(InputError, match="must be as"):
            expand_braces(bad)


def test_shards_are_shuffled_over_all_of_them_and_each_image_once(shards):
    config = DataConfig(name=f"wds:{shards}", image_size=16, batch_size=3)
    data = open_split(config, "train")
    data.transform = np.array
    loader = make_loader(data, config, training=True)
    colours = [batch.images[:, 0, 0, 0].tolist() for batch in loader]
    assert sorted(chain.from_iterable(colours)) == sorted(
        np.asarray(data[i][0])[0, 0, 0] for i in range(12)
    )
    assert len({colour // 160 for colour in colours[0]}) > 1  # of more than one shard


# Streams


@pytest.fixture
def stream(shards):
    """The training split as a stream."""
    pytest.importorskip("webdataset", reason="webdataset is not installed")
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
def test_the_parts_of_a_stream_are_all_of_it(stream, parts):
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
def test_workers_give_whole_batches_and_see_the_epoch(shards, workers):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
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


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_of_a_stream_counts_each_image_once(shards, workers):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    write_info(shards, "validation", {f"train-000{number}.tar": 4 for number in range(3)})
    config = DataConfig(
        name="wds/tiny",
        root=str(shards),
        num_classes=2,
        image_size=16,
        batch_size=5,
        num_workers=workers,
    )
    data = open_split(config, "val")
    data.transform = eval_transform(preprocessing(config, data))
    loader = make_loader(data, config, training=False)
    assert [len(batch.labels) for batch in loader] == [5, 5, 2]
    assert len(loader) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_label_in_a_stream_is_one_line(tmp_path, workers):
    """It is the last item, of a batch that would not be whole."""
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    files = samples([picture(i) for i in range(3)])
    write_tar(tmp_path / "train-0.tar", [*files, ("9.jpg", files[0][1]), ("9.cls", b"cat")])
    write_info(tmp_path, "train", {"train-0.tar": 4})
    config = DataConfig(
        name="wds/tiny", root=str(tmp_path), num_classes=2, batch_size=4, num_workers=workers
    )
    data = open_split(config, "train")
    data.transform = lambda image: torch.tensor(image.getpixel((0, 0)))
    with pytest.raises(
        InputError, match=r"^.*train-0\.tar/9: \.cls must hold a class index[^\n]*$"
    ):
        list(make_loader(data, config, training=True))


def test_a_stream_of_unknown_length_is_refused(shards):
    pytest.importorskip("webdataset", reason="webdataset is not installed")
    write_info(shards, "validation", {})
    config = DataConfig(name="wds/tiny", root=str(shards), num_classes=2)
    with pytest.raises(InputError, match="does not say how many images it has"):
        open_split(config, "val")


def test_a_part_without_images_is_an_error_not_an_endless_loop():
    stream = ImageStream(lambda epoch, part: iter(()), 8, ["0"], batch_size=4)
    with pytest.raises(InputError, match="part 1 of 1 of the stream is empty"):
        list(stream)
