"""Means, intervals and paired differences of the runs of a grid, and how they are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kat.analysis.ablation import Estimate, compared, main_metric, markdown, summarize, table
from kat.analysis.figures.grids import draw_cells
from kat.analysis.runs import METRICS, read_runs, write_runs
from kat.errors import InputError
from tests.analysis.report_pages import grid_rows, rows_with_test

TOP1_METRIC = METRICS["top1"]
TOP1 = {"KAT": [84.0, 85.5, 84.6], "ViT": [81.0, 82.9, 81.5]}


def _rows():
    return [{**row, "parameters": 1000, "model": row["cell"]} for row in grid_rows(TOP1)]


def test_estimates_are_scipys():
    values = TOP1["KAT"]
    found = Estimate.of(values)
    _, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.mean, found.mean + found.half_width) == pytest.approx((np.mean(values), high))
    assert found.text() == "84.70 ± 1.88"
    # one seed has no interval
    assert math.isnan(Estimate.of([3.0]).half_width)
    assert math.isnan(Estimate.of([3.0]).p_value)
    assert Estimate.of([1.0, math.inf]).text(1) == "inf"
    assert Estimate.of([1.0, math.nan]).text(1) == "nan"
    assert Estimate.of([3.0]).text(1, sign=True) == "+3.0"


def test_differences_are_paired_by_seed():
    kat, vit = summarize(_rows())
    assert kat.difference is None
    paired = stats.ttest_rel(TOP1["ViT"], TOP1["KAT"]).confidence_interval(0.95)
    assert vit.difference.mean == pytest.approx(-2.9)
    assert vit.difference.half_width == pytest.approx((paired.high - paired.low) / 2)
    assert vit.difference.half_width < vit.estimate.half_width
    text = markdown(*table([kat, vit], "KAT", TOP1_METRIC))
    line = [cell.strip() for cell in text.splitlines()[-1].split("|")[1:-1]]
    assert line[:3] == ["ViT", "81.80 ± 2.45", "-2.90 ± 0.66"]
    assert line[3:] == ["3", "1,000", "2 M", "61"]


def test_only_common_seeds_are_paired_and_failures_are_counted():
    rows = _rows()
    rows[1] = {**rows[1], "status": "diverged", "top1": None}
    kat, vit = summarize(rows)
    assert (kat.failed, list(kat.values)) == ([1], [0, 2])
    assert (vit.difference.n, vit.difference.mean) == (2, pytest.approx(-3.05))
    assert table([kat, vit], "KAT", TOP1_METRIC)[1][0][3] == "2 of 3"

    rows = _rows()
    for row in rows[3:]:
        row.update(status="failed", top1=None, seconds=None)
    found = summarize(rows)[1]
    assert (found.estimate, found.difference, found.failed) == (None, None, [0, 1, 2])
    assert set(table([found], "KAT", TOP1_METRIC)[1][0]) == {"ViT", "-", "0 of 3"}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "models.csv"
    rows = [{**row, "epochs_to_reference": 4} for row in _rows()]
    rows[1]["epochs_to_reference"] = None  # it never reaches the reference
    rows[4] = {"cell": "ViT", "seed": 1, "status": "diverged", "run": "runs/x", "model": "ViT"}
    write_runs(rows, path)
    back = read_runs(path)
    assert [r.difference for r in summarize(back)] == [r.difference for r in summarize(rows)]
    assert [r["top1"] for r in back] == [84.0, 85.5, 84.6, 81.0, None, 81.5]
    assert [r["epochs_to_reference"] for r in back] == [4, None, 4, 4, None, 4]
    assert "(2 of 3)" in summarize(back)[0].beside["epochs_to_reference"]
    assert (back[0]["parameters"], back[0]["model"]) == (1000, "KAT")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "runs.csv"
    for text in ("a,b\n1,2\n", "cell,seed,status,top1\nx,y,done,3\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"runs\.csv is not"):
            read_runs(path)


def test_runs_are_compared_by_the_metric_of_their_task(tmp_path):
    rows = [{**row, "box_ap": row["top1"] / 2, "top1": None, "top5": None} for row in _rows()]
    rows[4]["box_ap"] = None  # nothing counted
    known = [{k: v for k, v in row.items() if v is not None} for row in rows]
    write_runs(known, tmp_path / "a.csv")
    back = read_runs(tmp_path / "a.csv")
    metric = main_metric(back)
    kat, vit = summarize(back, measure=metric.name)
    assert (metric.name, vit.estimate.n) == ("box_ap", 2)
    assert vit.difference.mean == pytest.approx(-1.525)
    assert table([kat, vit], "KAT", metric)[0][1] == f"{metric.label} (%)"
    assert main_metric([{**row, "status": "failed"} for row in rows]).name == "top1"


def _table(rows):
    """The names of the columns of the table, and its lines by them."""
    metric = compared(TOP1_METRIC, rows)
    found = summarize(rows, measure=metric.name)
    head, lines = table(found, "KAT", metric)
    return head, [dict(zip(head, line, strict=True)) for line in lines]


def test_the_table_of_a_tested_grid():
    rows = rows_with_test()
    rows[0] |= {"epochs_to_reference": 2, "images_per_second": 1001.5, "memory_bytes": 2 * 10**9}
    rows[3]["tuned"] = rows[2]["tuned"] = "optim.lr=0.1"
    head, (kat, vit) = _table(rows)
    costs = ["seeds", "parameters", "FLOPs per image", "seconds per run"]
    tested = ["test top-1 (%)", "last epoch (%)", "minus KAT", "ECE"]
    beside = ["images/s", "peak memory", "epochs to reference", "tuned"]
    assert {*tested, *costs, *beside} < {*head}
    low, high = stats.t.interval(0.95, 1, 0.025, stats.sem([0.02, 0.03]))
    assert kat["ECE"] == f"0.0250 ± {(high - low) / 2:.4f}"
    assert (kat["test top-1 (%)"][:5], kat["last epoch (%)"][:5]) == ("74.00", "73.50")
    assert vit["minus KAT"].startswith("-0.75 ± ")
    assert (kat["images/s"], kat["peak memory"]) == ("951", "1.5 GB")
    assert (kat["tuned"], vit["tuned"]) == ("-", "optim.lr=0.1")


def test_two_runs_of_one_cell_and_seed_are_refused():
    rows = _rows()
    with pytest.raises(InputError, match="cell 'KAT' has"):
        summarize([*rows, rows[0]])


def _intervals(axes):
    """From, to, and the row of each horizontal bar."""
    ends = [bars.get_segments()[0] for bars in axes.collections]
    return np.array([[*segment[:, 0], segment[0, 1]] for segment in ends])


def test_the_figure_has_every_run_and_the_intervals():
    figure = draw_cells(summarize(_rows()), TOP1_METRIC, "Which <model> & why?")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["KAT", "ViT"]
    assert axes.get_ylim() == (1.5, -0.5)  # the best on top
    runs = [line for line in axes.lines if line.get_marker() == "."]
    assert [line.get_xdata()[0] for line in runs] == [v for own in TOP1.values() for v in own]
    assert [line.get_ydata()[0] for line in runs] == [0] * 3 + [1] * 3
    means = [stats.t.interval(0.95, 2, np.mean(v), stats.sem(v)) for v in TOP1.values()]
    assert _intervals(axes) == pytest.approx(np.array([[*means[0], 0], [*means[1], 1]]))
    (right,) = axes.child_axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["", "-2.90 ± 0.66"]


def test_an_interval_of_an_accuracy_is_from_0_to_100():
    rows = [{**row, "top1": row["top1"] + 14.0} for row in _rows()]
    results = summarize(rows)
    (axes,) = draw_cells(results, TOP1_METRIC, "t").figure.axes
    low, high, _ = _intervals(axes)[0]
    assert (low, high) == pytest.approx((98.7 - 1.88, 100), abs=0.01)
    _, lines = table(results, "KAT", TOP1_METRIC)
    assert "96.82" in lines[0][1]
    assert lines[1][1] == "95.80 ± 2.45"
    results = summarize([{**row, "top1": [1.0, 2.0, 6.0][row["seed"]]} for row in rows])
    (axes,) = draw_cells(results, TOP1_METRIC, "t").figure.axes
    assert _intervals(axes)[0, :2] == pytest.approx([0, 3 + 4.303 * 7**0.5 / 3**0.5], abs=0.01)
