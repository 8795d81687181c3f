"""Images in tar files are the same as in folders, in any order and process."""

from __future__ import annotations

import os
import pickle
import tarfile

import pytest

from kat.data import (
    DataConfig,
    check_classes,
    eval_transform,
    make_loader,
    open_split,
    preprocessing,
)
from kat.errors import InputError
from tests.images import picture, write_folder, write_tar


def _open(root, split="train", **settings):
    return open_split(DataConfig(name=f"tar:{root}", **settings), split)


def _content(data):
    """Class name and pixels of every image, sorted."""
    return sorted((data.classes[label], image.tobytes()) for image, label in iter_items(data))


def iter_items(data):
    return (data[index] for index in range(len(data)))


def _pack(folder, path, **options):
    """Packs a folder with ``tarfile``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        tar.add(folder, arcname=".")


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "folder", classes=3, train=3, val=2)
    return tmp_path / "folder"


@pytest.fixture
def one_tar(tmp_path, folder):
    for split in ("train", "val"):
        _pack(folder / split, tmp_path / "tars" / f"{split}.tar")
    return tmp_path / "tars"


def test_one_tar_per_split(one_tar, folder):
    train, val = (_open(one_tar, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (9, 6)
    check_classes(train, val)
    for data, split in ((train, "train"), (val, "val")):
        files = open_split(DataConfig(name=f"folder:{folder}"), split)
        assert data.classes == files.classes
        assert _content(data) == _content(files)
    assert train.name(0).startswith(f"{one_tar}/train.tar/n0")
    assert _content(pickle.loads(pickle.dumps(train))) == _content(train)  # for spawned workers


def test_a_tar_per_class_and_a_tar_of_tars_as_imagenet_is_distributed(tmp_path, folder):
    files = open_split(DataConfig(name=f"folder:{folder}"), "train")
    for name in files.classes:
        _pack(folder / "train" / name, tmp_path / "many" / "train" / f"{name}.tar")
    inner = [(tar.name, tar.read_bytes()) for tar in (tmp_path / "many" / "train").iterdir()]
    write_tar(tmp_path / "one" / "train.tar", inner)
    for data in (_open(tmp_path / "many"), _open(tmp_path / "one")):
        assert (data.classes, _content(data)) == (files.classes, _content(files))


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_directories_and_hidden_files(tmp_path, kind):
    stem = "é" * 20 if kind == tarfile.USTAR_FORMAT else "é" * 120
    long = f"{'deep/' * 10}n00/{stem}.jpg"
    files = [
        ("n00/", b""),
        (long, picture(1)),
        ("n00/._0.jpg", b"resource fork"),
        (".DS_Store", b"x"),
        ("__MACOSX/n02/0.jpg", b"x"),
        ("n01/Thumbs.db", b"x"),
        ("./n01/0.jpg", picture(2)),
        ("n01/notes.txt", b"hello"),
    ]
    write_tar(tmp_path / "train.tar", files, format=kind)
    data = _open(tmp_path)
    assert data.classes == ["n00", "n01"]
    assert [data.name(index) for index in range(2)] == [
        f"{tmp_path}/train.tar/{long}",
        f"{tmp_path}/train.tar/n01/0.jpg",
    ]
    assert list(data.ignored) == [f"{tmp_path}/train.tar/n01/notes.txt"]
    with pytest.raises(InputError, match=r"notes\.txt: "):
        _open(tmp_path, bad_images="fail")


def _cut(path, end):
    path.write_bytes(path.read_bytes()[:end])


def test_a_truncated_tar_is_named_with_the_offset(tmp_path):
    path = tmp_path / "train.tar"
    files = [(f"n0/{index}.jpg", picture(index)) for index in range(4)]
    write_tar(path, files)
    with tarfile.open(path) as tar:
        third, fourth = tar.getmembers()[2:]
    whole = path.read_bytes()
    for end in (third.offset_data + 100, fourth.offset + 100, fourth.offset_data):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"truncated at byte \d") as e:
            _open(tmp_path)
        assert abs(int(str(e.value).split("at byte ")[1].split(":")[0]) - end) <= 2048
    path.write_bytes(whole[: fourth.offset] + b"garbage!" * 64 + whole[fourth.offset + 512 :])
    with pytest.raises(InputError, match=rf"at byte {fourth.offset}: "):
        _open(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="byte 0: empty"):
        _open(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"train\.tar"):
        _open(tmp_path)
    write_tar(tmp_path / "train.tar", [("0.jpg", picture(0))])
    (reason,) = _open(tmp_path).ignored.values()
    assert "in no folder" in reason


def _scans(monkeypatch):
    """Lists the tar files that are scanned from now on."""
    scanned = []
    original = tarfile.open

    def record(name=None, mode="r", **options):
        if mode == "r:":
            scanned.append(options["fileobj"].name)
        return original(name, mode, **options)

    monkeypatch.setattr(tarfile, "open", record)
    return scanned


def test_the_index_is_cached_until_the_tar_changes(one_tar, own_cache, monkeypatch):
    scanned = _scans(monkeypatch)
    first = _content(_open(one_tar))
    assert len(scanned) == 1
    assert _content(_open(one_tar)) == first
    assert len(scanned) == 1
    write_tar(one_tar / "train.tar", [("n9/0.jpg", picture(0))])
    assert _open(one_tar).classes == ["n9"]
    assert len(scanned) == 2
    for cached in (own_cache / "tar").iterdir():
        cached.write_bytes(cached.read_bytes()[:-200])
    assert _open(one_tar).classes == ["n9"]
    assert len(scanned) == 3


def test_the_data_and_the_cache_may_be_read_only(one_tar, own_cache, monkeypatch):
    monkeypatch.setenv("KAT_CACHE_DIR", "/proc/no/such/folder")
    before = sorted(os.listdir(one_tar))
    assert len(_open(one_tar)) == 9
    assert sorted(os.listdir(one_tar)) == before


def test_a_tar_that_shrinks_later_makes_images_unreadable(one_tar):
    config = DataConfig(name=f"tar:{one_tar}", image_size=16, batch_size=9)
    data = open_split(config, "train")
    data.transform = eval_transform(preprocessing(config, data))
    _cut(one_tar / "train.tar", 2000)
    (batch,) = make_loader(data, config, training=False)
    assert len(batch.labels) + len(batch.unreadable) == 9
    assert len(batch.unreadable) >= 8


def test_links_are_named_and_not_followed(tmp_path, folder):
    train = folder / "train"
    os.link(sorted((train / "n00").iterdir())[0], train / "n00" / "hard.png")
    (train / "n01" / "soft.jpg").symlink_to(os.path.join("..", "n00", "hard.png"))
    _pack(train, tmp_path / "tars" / "train.tar")
    data = _open(tmp_path / "tars")
    assert len(data) == 9
    assert len(data.ignored) == 2
