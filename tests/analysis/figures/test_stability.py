"""Several monitored runs in one figure."""

from __future__ import annotations

import pytest

from kat.analysis import plot_stability
from kat.analysis.figures.stability import MAPS, Quantity, draw_map, draw_variance
from kat.errors import InputError
from tests.analysis.stability_rows import monitored


@pytest.mark.slow
def test_several_runs_are_drawn_side_by_side_on_one_scale(tmp_path):
    runs = {"a run": monitored(), "another": monitored(steps=(0, 5), **{"5/1": {"q_max": 400.0}})}
    plot_stability(runs, tmp_path / "new")
    names = {quantity.name for quantity in MAPS}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        f"{name}.svg" for name in names | {"variance"}
    }
    layers = {label: [row for row in rows if "q_max" in row] for label, rows in runs.items()}
    figure = draw_map(layers, Quantity("q_max", "Q", True))
    first, second, _ = figure.axes
    assert (first.get_title(), second.get_title()) == ("a run", "another")
    assert first.images[0].norm is second.images[0].norm
    assert (second.images[0].norm.vmin, second.images[0].norm.vmax) == (4, 400)
    assert second.images[0].get_array().tolist() == [[4, 4], [4, 400]]
    panels = draw_variance(layers).axes
    assert [axes.get_title() for axes in panels] == [
        "a run, step 0", "a run, step 20", "another, step 0", "another, step 5"
    ]  # fmt: skip
    with pytest.raises(InputError, match="no step was monitored"):
        plot_stability({"": []}, tmp_path / "none")
    assert not (tmp_path / "none").exists()
