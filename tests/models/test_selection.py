"""Selection by index, name, glob and regular expression."""

from __future__ import annotations

import re

import pytest

from kat.errors import InputError
from kat.models.selection import selected

BLOCKS = [f"blocks.{i}.mlp" for i in range(12)]
NAMES = [*BLOCKS, "head"]


@pytest.mark.parametrize(
    ("only", "exclude", "expected"),
    [
        (None, None, [*BLOCKS, "head"]),
        (0, None, BLOCKS[:1]),
        ([-1, 2], None, [BLOCKS[2], "head"]),
        ("blocks.1", None, BLOCKS[1:2]),  # not blocks.10
        ("mlp", None, BLOCKS),
        ("1.mlp", None, BLOCKS[1:2]),
        ("blocks.[1-3]", 2, [BLOCKS[1], BLOCKS[3]]),
        (None, ["blocks.*", "nothing*"], None),
        (None, "blocks.*", ["head"]),
        (re.compile(r"blocks\.1\d?"), None, [BLOCKS[1], *BLOCKS[10:]]),
        (re.compile(r"blocks"), re.compile(r".*\.\d\.mlp"), BLOCKS[10:]),
    ],
)
def test_selectors_choose_parts_in_their_order(only, exclude, expected):
    if expected is None:
        with pytest.raises(InputError, match=r"unknown layer 'nothing\*'"):
            selected(NAMES, "layer", only, exclude)
    else:
        assert selected(NAMES, "layer", only, exclude) == expected


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("stem", "only='stem': stem is passed over: it is odd"),
        (re.compile("none"), "unknown layer 'none'"),
        ([], r"only=\[\] leaves no layer"),
    ],
)
def test_selectors_that_match_nothing_are_named(only, message):
    with pytest.raises(InputError, match=message):
        selected(NAMES, "layer", only, None, {"stem": "it is odd"})
    with pytest.raises(InputError, match="leaves no layer"):
        selected(NAMES, "layer", "head", "*")
