"""Mean and range of a quantity over runs, epoch by epoch."""

from __future__ import annotations

import numpy as np
import pytest

from kat.analysis.learning_curves import curve
from kat.errors import InputError


def _history(values, first=1):
    return [{"epoch": first + place, "top1": value} for place, value in enumerate(values)]


def test_mean_and_range_are_of_the_runs_at_each_epoch():
    values = np.random.default_rng(0).uniform(size=(3, 5))
    found = curve("KAT", [_history(row) for row in values.tolist()], "top1")
    assert found.epochs == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(found.mean, values.mean(0))
    np.testing.assert_array_equal([found.low, found.high], [values.min(0), values.max(0)])


def test_only_epochs_that_all_runs_have_count():
    later = [{"epoch": 2}, *_history([30.0, 40.0], first=3)]
    found = curve("KAT", [_history([10.0, 20.0, 30.0]), later], "top1")
    assert (found.epochs, found.mean) == ([3], [30.0])


@pytest.mark.parametrize(
    ("histories", "says"),
    [
        ([_history([1.0])], "'KAT' has no epoch at which all its runs have top5; .* epoch, top1"),
        ([[]], "their histories have no rows"),
    ],
)
def test_what_no_run_has_is_named(histories, says):
    with pytest.raises(InputError, match=says):
        curve("KAT", histories, "top5")
