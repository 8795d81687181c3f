"""The names of WebDataset shards."""

from __future__ import annotations

import pytest

from kat.data.sources.shard_layout import expand_braces, shards_by_split
from kat.errors import InputError


def test_braces_are_expanded():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("plain") == ["plain"]
    for bad in ("{a}", "{2..1}", "{a..c}"):
        with pytest.raises(InputError, match="must be like"):
            expand_braces(bad)


def test_of_several_validation_splits_one_is_taken(tmp_path):
    for name in ("train-0", "train-1", "val-0", "val-1", "test-0"):
        (tmp_path / f"{name}.tar").touch()
    _, shards = shards_by_split(str(tmp_path))
    assert [path[len(str(tmp_path)) + 1 :] for path in shards["val"]] == ["val-0.tar", "val-1.tar"]
    assert len(shards["train"]) == 2
    for name in ("val-0", "val-1"):
        (tmp_path / f"{name}.tar").unlink()
    assert shards_by_split(str(tmp_path))[1]["val"] == [str(tmp_path / "test-0.tar")]
