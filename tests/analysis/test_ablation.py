"""Means, intervals and paired differences of the runs of a grid, and how they are kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from kat.analysis.ablation import (
    Estimate,
    compared,
    main_metric,
    markdown,
    read_runs,
    summarize,
    table,
    timing_note,
    write_runs,
)
from kat.analysis.figures import ablation as ablation_plots
from kat.analysis.figures.ablation import plot_cells
from kat.analysis.learning_curves import METRICS
from kat.analysis.main_effects import main_effects
from kat.errors import InputError
from tests.analysis.report_pages import grid_rows, rows_with_test

TOP1_METRIC = METRICS["top1"]
TOP1 = {"KAT": [84.0, 85.5, 84.6], "ViT": [81.0, 82.9, 81.5]}


def _rows():
    return [{**row, "parameters": 1000, "model": row["cell"]} for row in grid_rows(TOP1)]


def test_estimates_are_scipys():
    values = TOP1["KAT"]
    found = Estimate.of(values)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(
        (low, high)
    )
    assert found.text() == "84.70 ± 1.88"


def test_one_seed_has_no_interval():
    assert math.isnan(Estimate.of([3.0]).half_width)
    assert math.isnan(Estimate.of([3.0]).p_value)
    assert Estimate.of([1.0, math.inf]).text(1) == "inf"
    assert Estimate.of([1.0, math.nan]).text(1) == "nan"
    assert Estimate.of([3.0]).text(1, sign=True) == "+3.0"
    with pytest.raises(ValueError, match="at least one value"):
        Estimate.of([])


def test_differences_are_paired_by_seed():
    kat, vit = summarize(_rows())
    assert kat.difference is None
    paired = stats.ttest_rel(TOP1["ViT"], TOP1["KAT"]).confidence_interval(0.95)
    assert vit.difference.mean == pytest.approx(-2.9)
    assert vit.difference.half_width == pytest.approx((paired.high - paired.low) / 2)
    assert vit.difference.half_width < vit.estimate.half_width


def test_only_common_seeds_are_paired_and_failures_are_counted():
    rows = _rows()
    rows[1] = {**rows[1], "status": "diverged", "top1": None}
    kat, vit = summarize(rows)
    assert (kat.failed, list(kat.values)) == ([1], [0, 2])
    assert (vit.difference.n, vit.difference.mean) == (2, pytest.approx(-3.05))
    assert table([kat, vit], "KAT", TOP1_METRIC)[1][0][3] == "2 done, 1 failed"


def test_a_cell_without_results():
    rows = _rows()
    for row in rows[3:]:
        row.update(status="failed", top1=None, seconds=None)
    found = summarize(rows)[1]
    assert (found.estimate, found.difference, found.failed) == (None, None, [0, 1, 2])
    assert set(table([found], "KAT", TOP1_METRIC)[1][0]) == {"ViT", "-", "0 done, 3 failed"}


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "models.csv"
    rows = _rows()
    rows[4] = {"cell": "ViT", "seed": 1, "status": "diverged", "run": "runs/x", "model": "ViT"}
    write_runs(rows, path)
    back = read_runs(path)
    assert [r.difference for r in summarize(back)] == [r.difference for r in summarize(rows)]
    assert [r["top1"] for r in back] == [84.0, 85.5, 84.6, 81.0, None, 81.5]
    assert back[0]["parameters"] == 1000
    assert back[0]["model"] == "KAT"
    assert path.read_text().splitlines()[0].startswith("cell,seed,status,top1,top5,parameters")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "cell,seed,status,top1\nx,y,done,3\n"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"runs.csv (is not a table of runs|holds no runs)"):
        read_runs(path)
    with pytest.raises(InputError, match=r"missing\.csv does not exist"):
        read_runs(tmp_path / "missing.csv")


def test_an_unknown_reference_is_named():
    with pytest.raises(InputError, match="no cell 'MLP'; there are KAT, ViT"):
        summarize(_rows(), "MLP")


def test_runs_are_compared_by_the_metric_of_their_task(tmp_path):
    rows = [{**row, "box_ap": row["top1"] / 2, "top1": None, "top5": None} for row in _rows()]
    rows[4]["box_ap"] = None  # nothing counted
    write_runs(
        [{k: v for k, v in row.items() if v is not None} for row in rows], tmp_path / "a.csv"
    )
    back = read_runs(tmp_path / "a.csv")
    metric = main_metric(back)
    kat, vit = summarize(back, measure=metric.name)
    assert (metric.name, vit.estimate.n, vit.difference.mean) == (
        "box_ap",
        2,
        pytest.approx(-1.525),
    )
    assert table([kat, vit], "KAT", metric)[0][1] == f"{metric.label} (%)"
    assert main_metric([{**row, "status": "failed"} for row in rows]).name == "top1"


def test_the_table():
    head, lines = table(summarize(_rows()), "KAT", TOP1_METRIC)
    text = markdown(head, lines)
    assert "| ViT | 81.80 ± 2.45 | -2.90 ± 0.66 | 3 | 1,000 | 2 M | 61 |" in text


PLAIN = [
    "cell",
    "top-1 (%)",
    "minus KAT",
    "seeds",
    "parameters",
    "FLOPs per image",
    "seconds per run",
]


def _table(rows):
    """The table by the names of its columns, and the note under it."""
    metric = compared(TOP1_METRIC, rows)
    found = summarize(rows, measure=metric.name)
    head, lines = table(found, "KAT", metric)
    return head, [dict(zip(head, line, strict=True)) for line in lines], timing_note(found, metric)


def test_the_table_of_a_plain_grid_has_no_more():
    assert _table(_rows())[0] == PLAIN
    assert _table([{**row, "runs_at_once": 1} for row in _rows()])[2] == ""


def test_the_table_of_a_tested_grid():
    rows = [{**row, "runs_at_once": 1} for row in rows_with_test()]
    rows[0] |= {"epochs_to_reference": 2, "images_per_second": 1001.5, "memory_bytes": 2 * 10**9}
    rows[3]["tuned"] = rows[2]["tuned"] = "optim.lr=0.1"
    head, (kat, vit), note = _table(rows)
    assert head == [
        "cell",
        "test top-1 (%)",
        "last epoch (%)",
        "minus KAT",
        "ECE",
        "seeds",
        "parameters",
        "FLOPs per image",
        "seconds per run",
        "images/s",
        "peak memory",
        "epochs to reference",
        "tuned",
    ]
    low, high = stats.t.interval(0.95, 1, 0.025, stats.sem([0.02, 0.03]))
    assert kat["ECE"] == f"0.0250 ± {(high - low) / 2:.4f}"
    assert (kat["test top-1 (%)"][:5], kat["last epoch (%)"][:5]) == ("74.00", "73.50")
    assert vit["minus KAT"].startswith("-0.75 ± ")
    assert (kat["images/s"], kat["peak memory"]) == ("951", "1.5 GB")
    assert (kat["epochs to reference"], vit["epochs to reference"]) == ("2.0 (1 of 2)", "-")
    assert (kat["tuned"], vit["tuned"], note) == ("-", "optim.lr=0.1", "")


def test_times_of_runs_that_shared_the_machine_are_marked():
    rows = [{**row, "runs_at_once": 1} for row in rows_with_test()]
    rows[3]["runs_at_once"] = 3
    head, _, note = _table(rows)
    assert [name for name in head if "shared" in name] == [
        "images/s (shared)",
        "peak memory (shared)",
    ]
    assert "while up to 3 runs shared the machine" in note
    rows[3].pop("runs_at_once")  # of a table that does not say so
    head, _, note = _table(rows)
    assert "images/s" in head
    assert note.startswith("It is not recorded how many runs shared the machine")
    rows[3]["status"] = "diverged"
    assert _table(rows)[2] == ""


def test_seconds_of_runs_that_shared_the_machine_are_marked_without_a_test():
    rows = [{**row, "runs_at_once": 2} for row in _rows()]
    note = timing_note(summarize(rows), TOP1_METRIC)
    assert note.startswith("Shared: seconds were measured while up to 2 runs shared the machine")
    assert timing_note(summarize(_rows()), TOP1_METRIC) == ""


def test_two_runs_of_one_cell_and_seed_are_refused():
    rows = _rows()
    with pytest.raises(InputError, match="the cell 'KAT' has 2 runs of seed 0: give one"):
        summarize([*rows, rows[0]])
    summarize([*rows, {**rows[0], "status": "failed"}])


def test_a_run_that_never_reaches_the_reference_is_read_back_without_an_epoch(tmp_path):
    rows = [{**row, "epochs_to_reference": 4, "runs_at_once": 1} for row in _rows()]
    rows[1] |= {"epochs_to_reference": None, "runs_at_once": None}
    write_runs(rows, tmp_path / "a.csv")
    back = read_runs(tmp_path / "a.csv")
    assert [row["epochs_to_reference"] for row in back] == [4, None, 4, 4, 4, 4]
    kat, vit = summarize(back)
    assert kat.beside["epochs_to_reference"] == "4.0 ± 0.0 (2 of 3)"
    assert (kat.runs_at_once, vit.runs_at_once) == (None, 1)


def test_runs_at_once_are_kept_and_are_no_factor(tmp_path):
    rows = [{**row, "runs_at_once": 1 + row["seed"], "wide": row["cell"]} for row in _rows()]
    write_runs(rows, tmp_path / "a.csv")
    back = read_runs(tmp_path / "a.csv")
    assert [row["runs_at_once"] for row in back] == [1, 2, 3, 1, 2, 3]
    assert main_effects(back, "top1") == {}  # of one factor alone


def test_the_figure_has_every_run_and_the_intervals(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(ablation_plots, "save_figure", lambda figure, path: figures.append(figure))
    plot_cells(summarize(_rows()), TOP1_METRIC, "Which model?", tmp_path / "models.svg")
    left, right = figures[0].axes
    assert figures[0].get_suptitle() == "Which model?"
    assert [label.get_text() for label in left.get_yticklabels()] == ["KAT", "ViT"]
    assert left.get_ylim() == (1.5, -0.5)  # the first on top
    runs = [line for line in left.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in runs] == list(TOP1.values())
    assert [list(line.get_ydata()) for line in runs] == [[0] * 3, [1] * 3]
    means = [stats.t.interval(0.95, 2, np.mean(v), stats.sem(v)) for v in TOP1.values()]
    assert _intervals(left) == pytest.approx(np.array([[*means[0], 0], [*means[1], 1]]))
    paired = stats.ttest_rel(TOP1["ViT"], TOP1["KAT"]).confidence_interval(0.95)
    assert _intervals(right) == pytest.approx(np.array([[paired.low, paired.high, 1]]))
    dots = [line for line in right.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([-2.9])


def _intervals(axes):
    """From, to, and the row of each horizontal bar."""
    ends = [bars.get_segments()[0] for bars in axes.collections]
    return np.array([[*segment[:, 0], segment[0, 1]] for segment in ends])


def test_the_figure_is_written(tmp_path):
    plot_cells(summarize(_rows()), TOP1_METRIC, "Which model?", tmp_path / "models.svg")
    assert "<!-- Which model? -->" in (tmp_path / "models.svg").read_text()
