"""Several monitored runs in one figure."""

from __future__ import annotations

import pytest

from kat.analysis import plot_stability
from kat.analysis.figures.stability import draw_gains
from kat.errors import InputError
from tests.analysis.stability_rows import monitored


def test_several_runs_are_drawn_side_by_side_on_one_scale(tmp_path):
    runs = {"a run": monitored(), "another": monitored(steps=(0, 5), **{"5/1": {"gain": 4.0}})}
    plot_stability(runs, tmp_path / "gain.svg")
    assert (tmp_path / "gain.svg").read_text().count("<svg") == 1
    first, second, _ = draw_gains(runs).axes
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["a run", "another"]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (1 / 8, 8)
    assert second.images[0].get_array().tolist() == [[1, 1], [1.1, 4]]
    with pytest.raises(InputError, match="no step"):
        plot_stability({"": []}, tmp_path / "none.svg")
