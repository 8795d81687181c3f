"""Selection by index, name, glob, regular expression and function."""

from __future__ import annotations

import re

import pytest
from torch import nn

from kat.errors import InputError
from kat.models.selection import Parts


@pytest.fixture
def parts():
    block = {"attn": nn.Linear(2, 2), "mlp": nn.Linear(2, 3)}
    blocks = [nn.ModuleDict(block) for _ in range(12)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks), "head": nn.Linear(2, 2)})
    holders = {f"blocks.{i}.mlp": f"blocks.{i}" for i in range(12)} | {"head": "head"}
    return Parts(model, holders, "layer", {"stem": "it is odd"})


BLOCKS = [f"blocks.{i}.mlp" for i in range(12)]


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
        (lambda module, name: isinstance(module, nn.Linear), None, ["head"]),
        (None, lambda module, name: "blocks" in name, ["head"]),
    ],
)
def test_selectors_choose_parts_in_their_order(parts, only, exclude, expected):
    if expected is None:
        with pytest.raises(InputError, match=r"unknown layer 'nothing\*'"):
            parts.selected(only, exclude)
    else:
        assert parts.selected(only, exclude) == expected


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("stem", "only='stem': stem is passed over: it is odd"),
        (re.compile("none"), "unknown layer 'none'"),
        ("none", "unknown layer 'none'"),
        ([], r"only=\[\] leaves no layer"),
        (lambda module, name: False, "leaves no layer"),
    ],
)
def test_selectors_that_match_nothing_are_named(parts, only, message):
    with pytest.raises(InputError, match=message):
        parts.selected(only)


def test_everything_may_not_be_excluded(parts):
    with pytest.raises(InputError, match="leaves no layer"):
        parts.selected("head", "*")


def test_the_first_pattern_that_matches_assigns_its_value(parts):
    values = parts.assigned({"blocks.1": "one", re.compile(r"blocks\..*"): "block"}, "other")
    assert [values[name] for name in (*BLOCKS[:3], "head")] == ["block", "one", "block", "other"]
    with pytest.raises(InputError, match="unknown layer 'blokcs'"):
        parts.assigned({"blokcs": 1}, 0)
