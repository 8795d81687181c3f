"""Several monitored runs in one figure."""

from __future__ import annotations

import pytest

from kat.analysis import plot_stability
from kat.analysis.figures.stability import Quantity, draw_map
from kat.errors import InputError
from tests.analysis.stability_rows import monitored


@pytest.mark.slow
def test_several_runs_are_drawn_side_by_side_on_one_scale(tmp_path):
    runs = {"a run": monitored(), "another": monitored(steps=(0, 5), **{"5/1": {"q_max": 400.0}})}
    plot_stability(runs, tmp_path / "gain.svg")
    assert (tmp_path / "gain.svg").read_text().count("<svg") == 1
    layers = {label: [row for row in rows if "q_max" in row] for label, rows in runs.items()}
    figure = draw_map(layers, Quantity("q_max", "Q", True))
    first, second, _ = figure.axes
    assert (first.get_title(), second.get_title()) == ("a run", "another")
    assert first.images[0].norm is second.images[0].norm
    assert (second.images[0].norm.vmin, second.images[0].norm.vmax) == (4, 400)
    assert second.images[0].get_array().tolist() == [[4, 4], [4, 400]]
    with pytest.raises(InputError, match="no step was monitored"):
        plot_stability({"": []}, tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()
