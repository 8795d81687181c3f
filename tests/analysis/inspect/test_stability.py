"""The verdict on records whose answer is known."""

from __future__ import annotations

import math

import pytest

from kat.analysis import Verdict
from kat.analysis.inspect.stability import thinned
from kat.errors import InputError
from tests.analysis.stability_rows import monitored


def test_preserved():
    verdict = Verdict.of(monitored())
    assert verdict.preserved
    assert verdict.lines == [
        "Variance preserved in every layer at every recorded step (preserved: E[y^2] / E[x^2] from"
        " 0.5 to 2).",
        "Step 0: preserved in 2 of 2 layers, gains from 1 (blocks.0.mlp.act1) to 1.1"
        " (blocks.0.mlp.act2).",
        "Step 20: preserved in 2 of 2 layers, gains from 1 (blocks.0.mlp.act1) to 1.1"
        " (blocks.0.mlp.act2).",
        "No dead groups (variance of F(x) below 1e-06).",
        "No exploding groups (E[F(x)^2] above 10000, or not finite).",
        "Inputs outside the fit interval: at most 1.00%, in blocks.0.mlp.act1 at step 0.",
        "Q(x) from 1 to 4, the largest in blocks.0.mlp.act1 at step 0.",
    ]


def test_what_is_not_finite_is_counted_and_hides_nothing():
    nan = {"gain": math.nan, "input_variance": math.nan, "q_min": math.nan, "q_max": math.nan}
    lines = Verdict.of(monitored(**{"20/0": nan})).lines
    assert "1 of 2 layers, gains from 1.1 (blocks.0.mlp.act2) to 1.1" in lines[2]
    assert [line.endswith("; 1 not finite.") for line in lines] == [0, 0, 1, 0, 0, 1, 1]
    lines = Verdict.of(monitored(steps=(0,), **{"0/0": nan, "0/1": nan})).lines
    assert "Step 0: preserved in 0 of 2 layers, and no gain is finite." in lines
    assert lines[-2:] == [
        "Inputs outside the fit interval: nothing is finite.",
        "Q(x) is finite nowhere.",
    ]


@pytest.mark.parametrize("gain", [0.49, 2.1, math.nan, math.inf])
def test_where_it_breaks_first(gain):
    changes = {"10/1": {"gain": gain}, "20/0": {"gain": 50.0}}
    verdict = Verdict.of(monitored(**changes))
    assert not verdict.preserved
    assert "at the start, not throughout: it breaks first at step 10 in" in verdict.lines[0]
    assert f"blocks.0.mlp.act2, gain {gain:.3g} (" in verdict.lines[0]
    assert "Step 20: preserved in 1 of 2 layers" in verdict.lines[2]
    verdict = Verdict.of(monitored(**{"0/0": {"gain": gain}}))
    assert "not preserved from the start: it breaks first at step 0 in" in verdict.lines[0]


def test_dead_exploding_and_outside_are_named_with_step_and_layer():
    changes = {
        "10/0": {"dead_groups": 1.0},
        "20/1": {"dead_groups": 3.0, "exploding_groups": 2.0, "outside": 0.2, "q_max": 1e9},
    }
    text = "\n".join(Verdict.of(monitored(**changes)).lines)
    assert "first at step 10 in blocks.0.mlp.act1; most in blocks.0.mlp.act2 at step 20, 3." in text
    assert "Exploding groups (E[F(x)^2] above 10000, or not finite): first at step 20" in text
    assert "at most 20.00%, in blocks.0.mlp.act2 at step 20; above 5% first at step 20" in text
    assert "Q(x) from 1 to 1e+09" in text


def test_a_failure_comes_first():
    verdict = Verdict.of(monitored(), "the loss is nan at step 25")
    assert not verdict.preserved
    assert verdict.lines[0] == "The run was stopped: the loss is nan at step 25"


def test_a_record_without_rationals_is_refused():
    with pytest.raises(InputError, match="no step was monitored"):
        Verdict.of([])


def test_long_runs_are_drawn_with_their_first_and_last_step():
    drawn = [row["step"] for row in thinned(monitored(steps=range(0, 10_000, 7)))]
    assert (drawn[0], drawn[-1]) == (0, 9996)
    assert 150 <= len(set(drawn)) <= 301
