"""The names of WebDataset shards."""

from __future__ import annotations

import pytest

from kat.data.sources.shard_layout import expand_braces
from kat.errors import InputError


def test_braces_are_expanded():
    assert expand_braces("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert expand_braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("plain") == ["plain"]
    for bad in ("{a}", "{2..1}", "{a..c}"):
        with pytest.raises(InputError, match="must be like"):
            expand_braces(bad)
