"""The check of settings: types, ranges, and the line that names what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kat.errors import InputError
from kat.settings import Batches, Count, OrAuto, Positive, ShareRange, check_ranges


@dataclass
class Inner:
    rate: OrAuto[Positive] = 0.1
    scale: ShareRange = (0.5, 1.0)
    steps: Count | None = None
    rates: list[Positive] = field(default_factory=list)


@dataclass
class Outer:
    name: str = "digits"
    limit: Batches | None = None
    flag: bool = False
    args: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "settings",
    [
        Outer(inner=Inner(rate="auto", steps=3)),
        Outer(limit=7, inner=Inner(rate=1)),
        Outer(limit=1.0),
        Outer(inner=Inner(scale=[0.5, 0.5], rates=[1, 2.5])),
    ],
)
def test_valid_settings_pass(settings):
    check_ranges(settings)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Outer(inner=Inner(rate=0)), "inner.rate must be above 0 or 'auto', got 0"),
        (Outer(inner=Inner(rate=float("nan"))), "must be a finite number or 'auto', got nan"),
        (Outer(inner=Inner(rate="fast")), "inner.rate must be a number or 'auto', got 'fast'"),
        (Outer(inner=Inner(scale=(0.9, 0.1))), "must be two numbers, the smaller first, got"),
        (Outer(inner=Inner(rates=[-1, 0])), r"inner.rates must be above 0, got \[-1, 0\]"),
        (Outer(limit=2.0), "limit must be an integer or at most 1, got 2.0"),
        (Outer(inner=Inner(steps="2")), "inner.steps must be an integer, got '2'"),
        (Outer(inner=Inner(steps=True)), "inner.steps must be an integer, got True"),
        (Outer(flag="false"), "flag must be true or false, got 'false'"),
    ],
)
def test_an_invalid_setting_is_named_with_what_it_may_be(settings, line):
    with pytest.raises(InputError, match=line):
        check_ranges(settings)


def test_the_settings_come_back_with_the_types_that_files_keep():
    """One batch stays one: 1.0 would be all of them."""
    given = Outer(
        name=np.str_("digits"),
        limit=np.int64(1),
        flag=np.bool_(True),
        args={"folder": Path("a") / "b", "sizes": [np.int32(2), 3], "x": {"y": np.float32(0.5)}},
        inner=Inner(rate=np.float64(0.1), scale=[0.5, 1], steps=np.int64(3), rates=np.ones(2)),
    )
    taken = check_ranges(given)
    assert taken == Outer(
        limit=1,
        flag=True,
        args={"folder": "a/b", "sizes": [2, 3], "x": {"y": 0.5}},
        inner=Inner(scale=(0.5, 1.0), steps=3, rates=[1.0, 1.0]),
    )
    assert type(taken.limit) is int
    assert yaml.safe_load(yaml.safe_dump(taken.args)) == taken.args
    assert isinstance(given.limit, np.int64)


def test_a_section_alone_has_its_full_name():
    with pytest.raises(InputError, match=r"^optim\.steps must be at least 1, got -1$"):
        check_ranges(Inner(steps=-1), "optim.")
