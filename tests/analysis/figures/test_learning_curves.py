"""Learning curves: written whole, and of what they show."""

from __future__ import annotations

from kat.analysis.figures.learning_curves import draw_learning_curves

ROWS = [
    {"epoch": e, "train_loss": 2.0 / e, "val_loss": 1.5 / e, "top1": 10.0 * e, "top5": 50.0}
    for e in (1, 2, 3)
]


def test_learning_curves_of_several_runs_are_their_mean_in_their_range():
    other = [{**row, "top1": row["top1"] + 6.0} for row in ROWS[:2]]
    figure = draw_learning_curves({"a": [ROWS, other], "b": [ROWS]}, ["top1"])
    (axes,) = figure.axes
    assert [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())] == [
        [13.0, 23.0],
        [10.0, 20.0, 30.0],
    ]
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners == {(1, 10), (2, 20), (2, 26), (1, 16)}
    assert [text.get_text() for text in axes.texts] == ["a (2 runs)", "b"]  # by height


def test_the_lines_of_a_run_are_named_where_there_are_two():
    loss, top1 = draw_learning_curves({"a": [ROWS]}).axes
    assert [text.get_text() for text in loss.texts] == ["validation", "training"]
    assert loss.get_title(loc="left") == "loss"
    assert not top1.texts
