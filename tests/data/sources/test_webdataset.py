"""WebDataset shards on local disks."""

from __future__ import annotations

import pytest

from kat.data import DataConfig, open_split
from kat.data.sources.webdataset import expand_braces
from kat.errors import InputError
from tests.images import picture, samples, write_tar


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


def test_words_in_the_names_of_shards_tell_their_split(tmp_path):
    write_tar(tmp_path / "imagenet1k-train-0000.tar", samples([picture()] * 4))
    write_tar(tmp_path / "imagenet1k-validation-00.tar", samples([picture()] * 2))
    assert len(_open(tmp_path)) == 4
    assert len(_open(tmp_path, "val")) == 2
    write_tar(tmp_path / "test-0.tar", samples([picture()]))
    assert len(_open(tmp_path, "val")) == 2  # of several, the first by its name
    (tmp_path / "imagenet1k-validation-00.tar").unlink()
    assert _open(tmp_path, "val").name(0).startswith(f"{tmp_path}/test-0.tar")
    (tmp_path / "test-0.tar").unlink()
    with pytest.raises(InputError, match="val, validation"):
        _open(tmp_path, "val")


def test_class_names_come_from_a_file(shards):
    (shards / "classes.txt").write_text("\ufeffcat\ndog\nfish\n", encoding="utf-8")
    assert _open(shards).classes == ["cat", "dog", "fish"]
    (shards / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(InputError, match="class 'cat' more"):
        _open(shards)
    (shards / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match="largest label, 1"):
        _open(shards)


def test_the_number_of_classes_is_that_of_all_splits_or_is_given(shards):
    write_tar(shards / "train-0003.tar", [("a.jpg", picture()), ("a.cls", b"7\n")])
    assert len(_open(shards, "val").classes) == 8
    assert len(_open(shards, "val", num_classes=10).classes) == 10
    with pytest.raises(InputError, match="largest label, 7"):
        _open(shards, num_classes=2)


def test_labels_in_json(tmp_path):
    files = [("a.png", picture()), ("a.json", b'{"label": 3, "text": "a cat"}')]
    files += [("b.JPEG", picture()), ("b.json", b'{"label": 0}')]
    write_tar(tmp_path / "train-0.tar", files)
    data = _open(tmp_path, label_key="label")
    assert [data[index][1] for index in range(2)] == [3, 0]
    assert len(data.classes) == 4
    with pytest.raises(InputError, match="field 'text' of"):
        _open(tmp_path, label_key="text")
    with pytest.raises(InputError, match="are unknown"):
        _open(tmp_path)


def test_samples_without_label_or_image_are_named(tmp_path):
    files = [*samples([picture()]), ("1.jpg", picture()), ("2.cls", b"0"), ("2.txt", b"no image")]
    write_tar(tmp_path / "train-0.tar", files)
    data = _open(tmp_path)
    assert len(data) == 1
    assert list(data.ignored) == [f"{tmp_path}/train-0.tar/{name}" for name in ("1.jpg", "2")]
    with pytest.raises(InputError, match=r"1\.jpg: .*\(2 such"):
        _open(tmp_path, bad_images="fail")


def test_repeated_samples_and_labels_that_are_no_classes_are_named(tmp_path):
    for more in ([("0000.jpg", b"")], [("x.jpg", b""), ("0000.jpg", b"")]):
        write_tar(tmp_path / "train-0.tar", [*samples([picture()]), *more])
        with pytest.raises(InputError, match="sample '0000' twice"):
            _open(tmp_path)
    for text in (b"cat", b"-1", b"", b"1.5"):
        write_tar(tmp_path / "train-0.tar", [("a.jpg", picture()), ("a.cls", text)])
        with pytest.raises(InputError, match=r"train-0\.tar/a: \.cls"):
            _open(tmp_path)


def test_braces_are_expanded(tmp_path, shards):
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    with pytest.raises(InputError, match=r"train-0003\.tar"):
        _open(f"{shards}/train-{{0000..0004}}.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty names no"):
        _open(tmp_path / "empty")
