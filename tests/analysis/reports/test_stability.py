"""The verdict on records whose answer is known, and the page."""

from __future__ import annotations

import math

import pytest

from kat.analysis import Verdict, plot_stability, write_stability_report
from kat.analysis.figures.plots import save_figure
from kat.analysis.reports import stability as stability_report
from kat.analysis.reports.stability import thinned
from kat.errors import InputError

LAYERS = ("blocks.0.mlp.act1", "blocks.0.mlp.act2")
FIGURES = {
    "variance", "gain", "input_variance", "activation_variance", "output_variance",
    "input_gradient", "weight_gradient", "outside", "q_max", "q_min",
}  # fmt: skip


def _rows(steps=(0, 10, 20), **changes):
    """Layers that preserve everything; ``changes`` maps "step/layer/quantity" to a value."""
    rows = []
    for step in steps:
        rows.append({"step": step, "layer": "blocks.0", "gain": 3.0, "output_variance": 2.0})
        for number, layer in enumerate(LAYERS):
            row = {
                "step": step, "layer": layer, "gain": 1.0 + 0.1 * number, "input_variance": 1.0,
                "activation_variance": 0.5, "output_variance": 1.0, "input_gradient": 0.1,
                "weight_gradient": 0.1, "numerator_gradient": 0.1, "denominator_gradient": 0.1,
                "q_min": 1.0, "q_max": 4.0, "outside": 0.01, "drift": 0.0, "dead_groups": 0.0,
                "exploding_groups": 0.0,
            }  # fmt: skip
            rows.append(row | changes.get(f"{step}/{number}", {}))
    return rows


def test_preserved():
    verdict = Verdict.of(_rows())
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
    lines = Verdict.of(_rows(**{"20/0": nan})).lines
    assert "1 of 2 layers, gains from 1.1 (blocks.0.mlp.act2) to 1.1" in lines[2]
    assert [line.endswith("; 1 not finite.") for line in lines] == [0, 0, 1, 0, 0, 1, 1]
    lines = Verdict.of(_rows(steps=(0,), **{"0/0": nan, "0/1": nan})).lines
    assert "Step 0: preserved in 0 of 2 layers, and no gain is finite." in lines
    assert lines[-2:] == [
        "Inputs outside the fit interval: nothing is finite.",
        "Q(x) is finite nowhere.",
    ]


@pytest.mark.parametrize("gain", [0.49, 2.1, math.nan, math.inf])
def test_where_it_breaks_first(gain):
    changes = {"10/1": {"gain": gain}, "20/0": {"gain": 50.0}}
    verdict = Verdict.of(_rows(**changes))
    assert not verdict.preserved
    assert "at the start, not throughout: it breaks first at step 10 in" in verdict.lines[0]
    assert f"blocks.0.mlp.act2, gain {gain:.3g} (" in verdict.lines[0]
    assert "Step 20: preserved in 1 of 2 layers" in verdict.lines[2]
    verdict = Verdict.of(_rows(**{"0/0": {"gain": gain}}))
    assert "not preserved from the start: it breaks first at step 0 in" in verdict.lines[0]


def test_dead_exploding_and_outside_are_named_with_step_and_layer():
    changes = {
        "10/0": {"dead_groups": 1.0},
        "20/1": {"dead_groups": 3.0, "exploding_groups": 2.0, "outside": 0.2, "q_max": 1e9},
    }
    text = "\n".join(Verdict.of(_rows(**changes)).lines)
    assert "first at step 10 in blocks.0.mlp.act1; most in blocks.0.mlp.act2 at step 20, 3." in text
    assert "Exploding groups (E[F(x)^2] above 10000, or not finite): first at step 20" in text
    assert "at most 20.00%, in blocks.0.mlp.act2 at step 20; above 5% first at step 20" in text
    assert "Q(x) from 1 to 1e+09" in text


def test_a_failure_comes_first():
    verdict = Verdict.of(_rows(), "the loss is nan at step 25")
    assert not verdict.preserved
    assert verdict.lines[0] == "The run was stopped: the loss is nan at step 25"


def test_a_record_without_rationals_is_refused():
    with pytest.raises(InputError, match="no step was monitored"):
        Verdict.of([])


def test_the_page_stands_alone_and_shades_layers_that_break(tmp_path):
    path = tmp_path / "stability.html"
    rows = _rows(**{"10/1": {"gain": math.nan, "input_gradient": 0.0, "q_max": math.inf}})
    write_stability_report(rows, path, "the loss is nan & more")
    page = path.read_text()
    assert "The run was stopped: the loss is nan &amp; more" in page
    assert page.count('<tr class="bad">') == 1
    assert page.count("<svg") == 15
    assert "<script" not in page
    one_step = [row for row in rows if row["step"] == 0]
    write_stability_report(one_step, path)


def test_several_runs_are_drawn_side_by_side_on_one_scale(tmp_path, monkeypatch):
    drawn = {}

    def keep(figure, path):
        drawn[path.stem] = figure
        save_figure(figure, path)

    monkeypatch.setattr(stability_report, "save_figure", keep)
    runs = {"a run": _rows(), "another": _rows(steps=(0, 5), **{"5/1": {"q_max": 400.0}})}
    plot_stability(runs, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {f"{n}.svg" for n in FIGURES}
    first, second, _ = drawn["q_max"].axes
    assert (first.get_title(), second.get_title()) == ("a run", "another")
    assert first.images[0].norm is second.images[0].norm
    assert (second.images[0].norm.vmin, second.images[0].norm.vmax) == (4, 400)
    assert second.images[0].get_array().tolist() == [[4, 4], [4, 400]]
    assert [axes.get_title() for axes in drawn["variance"].axes] == [
        "a run, step 0", "a run, step 20", "another, step 0", "another, step 5"
    ]  # fmt: skip
    with pytest.raises(InputError, match="no step was monitored"):
        plot_stability({"": []}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_long_runs_are_drawn_with_their_first_and_last_step():
    drawn = [row["step"] for row in thinned(_rows(steps=range(0, 10_000, 7)))]
    assert (drawn[0], drawn[-1]) == (0, 9996)
    assert 150 <= len(set(drawn)) <= 301
