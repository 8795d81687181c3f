"""The verdict on records whose answer is known."""

from __future__ import annotations

import math

import pytest

from kat.analysis import Verdict
from kat.analysis.inspect.stability import TABLE, table
from tests.analysis.stability_rows import monitored


def test_preserved():
    verdict = Verdict.of(monitored())
    assert verdict.preserved
    assert verdict.lines[0].startswith("Variance preserved in")
    assert verdict.lines[1:] == [f"Step {n}: preserved in 2 of 2 layers." for n in (0, 20)]


def test_the_table_has_the_extremes_of_each_layer():
    changes = {
        "10/0": {"gain": math.nan, "q_min": 0.5},
        "20/1": {"dead_groups": 3.0, "exploding_groups": 2.0, "outside": 0.2, "q_max": 1e9},
    }
    lines, bad = table(monitored(**changes))
    assert {len(line) for line in lines} == {len(TABLE)}
    first, second = lines
    assert (first[0], first[1], first[2], first[5]) == ("blocks.0.mlp.act1", "1", "1", "10")
    assert first[6:8] == ["1.00%", "0.5"]
    assert second[5:] == ["", "20.00%", "1", "1e+09", "0", "3", "2"]
    assert bad == [True, False]


@pytest.mark.parametrize("gain", [0.49, 2.1, math.nan])
def test_where_it_breaks_first(gain):
    changes = {"10/1": {"gain": gain}, "20/0": {"gain": 50.0}}
    verdict = Verdict.of(monitored(**changes))
    assert not verdict.preserved
    assert "step 10 in" in verdict.lines[0]
    assert f"blocks.0.mlp.act2, gain {gain:.3g} (" in verdict.lines[0]
    assert "1 of 2" in verdict.lines[2]
    verdict = Verdict.of(monitored(**{"0/0": {"gain": gain}}))
    assert "step 0 in" in verdict.lines[0]


def test_a_failure_comes_first():
    verdict = Verdict.of(monitored(), "the loss is nan at step 25")
    assert not verdict.preserved
    assert verdict.lines[0].endswith(": the loss is nan at step 25")
