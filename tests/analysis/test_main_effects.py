"""Main effects of factorial grids, by hand and against a linear model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from kat.analysis.main_effects import main_effects

LEVELS = {"width": ["narrow", "wide"], "groups": ["8", "4", "1"]}


def _rows(seeds=3):
    rng = np.random.default_rng(0)
    return [
        {
            "cell": f"{width}, {groups}", "seed": seed, "status": "done", "width": width,
            "groups": groups, "fixed": "yes", "title": "?", "settings": str(rng), "run": "x",
            "top1": 80 + 3 * (width == "wide") - len(groups) + rng.normal(),
        }
        for seed in range(seeds)
        for width, groups in itertools.product(*LEVELS.values())
    ]  # fmt: skip


def test_effects_are_those_of_scipy():
    rows = _rows()
    effects = main_effects(rows, "top1")
    assert {name: [level.name for level in own] for name, own in effects.items()} == LEVELS
    values = np.array([row["top1"] for row in rows]).reshape(3, 2, 3)  # seed, width, groups
    for place, own in enumerate(effects.values()):
        means = values.mean(axis=2 - place)
        assert own[0].difference is None
        for index, level in enumerate(own):
            assert level.estimate.mean == pytest.approx(means[:, index].mean())
        for index, level in enumerate(own[1:], start=1):
            paired = stats.ttest_rel(means[:, index], means[:, 0]).confidence_interval(0.95)
            low, high = (level.difference.mean + s * level.difference.half_width for s in (-1, 1))
            assert (low, high) == pytest.approx((paired.low, paired.high))


def test_a_seed_that_lacks_a_cell_does_not_count():
    rows = _rows()
    rows[7].update(status="diverged", top1=None)
    (first, _), _ = main_effects(rows, "top1").values()
    assert list(first.values) == [0, 2]


def test_only_factorial_grids_have_main_effects():
    rows = _rows()
    one_at_a_time = [r for r in rows if r["width"] == "narrow" or r["groups"] == "8"]
    assert main_effects(one_at_a_time, "top1") == {}
    assert main_effects([r for r in rows if r["width"] == "narrow"], "top1") == {}
    assert main_effects([{**r, "status": "failed", "top1": None} for r in rows], "top1") == {}
