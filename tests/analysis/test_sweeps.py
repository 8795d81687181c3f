"""Rows of earlier tables in the place of runs, and the epoch at which the reference is reached."""

from __future__ import annotations

import pytest

from kat.analysis.runs import write_runs
from kat.analysis.sweeps import SweepResults, curve_of, earlier_runs, with_earlier, with_epochs_to
from kat.cli.commands.ablate import make_parser, plan_grid
from kat.errors import InputError
from kat.training.sweep.plan import find_grids

GRID = """
recipe: digits
settings: {data.validate_on: holdout}
seeds: [0]
test: TEST
factors: {model.args.num_groups: [8]}
"""


@pytest.fixture
def plan(tmp_path):
    """Plans the one run of a grid that tests its runs, or not."""

    def make(test):
        (path := tmp_path / "grid.yaml").write_text(GRID.replace("TEST", str(test).lower()))
        options = make_parser().parse_args([str(path), "--out", str(tmp_path / "out")])
        return plan_grid(*find_grids([str(path)]), options)

    return make


@pytest.fixture
def row(plan):
    """A row of that run."""
    (run,) = plan(test=False)

    def make(status="done", **values):
        result = {"top1": 90.0} if status == "done" else {}
        name = f"runs/{run.folder.name}"
        return {"cell": "x", "seed": 0, "status": status, "run": name, **result, **values}

    return make


def _read(tmp_path, *tables):
    paths = [tmp_path / f"{place}.csv" for place in range(len(tables))]
    for path, rows in zip(paths, tables, strict=True):
        write_runs(rows, path)
    return earlier_runs(paths)


def _statuses(runs):
    return [run.earlier and run.earlier["status"] for run in runs]


def test_a_run_that_is_to_be_tested_needs_a_row_that_was(plan, row, tmp_path):
    untested, tested = _read(tmp_path, [row()]), _read(tmp_path, [row(test_top1=89.0)])
    assert _statuses(with_earlier(plan(test=False), untested)) == ["done"]
    assert _statuses(with_earlier(plan(test=False), tested)) == ["done"]
    assert _statuses(with_earlier(plan(test=True), untested)) == [None]
    assert _statuses(with_earlier(plan(test=True), tested)) == ["done"]


def test_a_run_that_has_not_begun_is_in_the_table(plan, tmp_path):
    runs = plan(test=False)
    results = SweepResults(runs[0].folder.parents[1])
    assert [row["status"] for row in results.rows(runs)] == ["to do"]
    runs[0].folder.mkdir(parents=True)
    results.errors[runs[0].folder] = "lost"
    assert [row["status"] for row in results.rows(runs)] == ["failed"]


def test_a_failed_run_is_trained_and_a_diverged_one_is_not(plan, row, tmp_path):
    assert _statuses(with_earlier(plan(test=False), _read(tmp_path, [row("failed")]))) == [None]
    (run,) = with_earlier(plan(test=True), _read(tmp_path, [row("diverged")]))
    assert (run.finished, run.done) == (True, False)


def test_what_is_finished_in_the_folder_counts(plan, row, tmp_path):
    diverged, tested = _read(tmp_path, [row("diverged")]), _read(tmp_path, [row(test_top1=89.0)])
    for run in plan(test=True):
        run.folder.mkdir(parents=True)
        (run.folder / "summary.json").write_text('{"top1": 91.0}')
    assert _statuses(with_earlier(plan(test=False), tested)) == [None]
    assert _statuses(with_earlier(plan(test=True), tested)) == ["done"]  # else it has to be tested
    assert _statuses(with_earlier(plan(test=True), diverged)) == [None]


def test_the_most_complete_row_counts_wherever_it_is(row, tmp_path):
    whole = row(test_top1=89.0, validation_curve="80.0 90.0")
    others = [row("diverged"), row("failed"), row(), row(test_top1=89.0)]
    for tables in ([others, [whole]], [[whole], others], [[], [*others, whole]]):
        (found,) = _read(tmp_path, *tables).values()
        assert (found["test_top1"], found["validation_curve"]) == (89, "80.0 90.0")


def test_tables_that_disagree_are_named(row, tmp_path):
    with pytest.raises(InputError, match=r"1\.csv has"):
        _read(tmp_path, [row()], [row(top1=90.5)])


CURVES = {
    "v0": [50, 70, 60],
    "v1": [40, 80, 90],  # the mean of the best values is 80
    "k0": [80, 70, 95],
    "k1": [79, 79.9, 79.9],
    "k2": [10, 81, 82],
}


def _row(run, status="done"):
    identity = {"cell": run[0], "seed": int(run[1]), "status": status, "run": run}
    if status != "done":
        return identity
    history = [{"epoch": e, "top1": v} for e, v in enumerate(CURVES[run], 1)]
    return {**identity, "top1": max(CURVES[run]), "validation_curve": curve_of(history, "top1")}


def _epochs(rows):
    found = with_epochs_to(rows, "v", "top1")
    return {row["run"]: row.get("epochs_to_reference", "-") for row in found}


def test_the_mean_of_the_best_epochs_is_to_be_reached():
    rows = [_row(run) for run in CURVES]
    assert _epochs(rows) == {"v0": None, "v1": 2, "k0": 1, "k1": None, "k2": 2}
    assert "epochs_to_reference" not in rows[0]


def test_runs_without_a_result_neither_count_nor_get_one():
    rows = [_row("v0"), _row("v1", "failed"), _row("k0"), _row("k2", "diverged")]
    assert _epochs(rows) == {"v0": 2, "v1": "-", "k0": 1, "k2": "-"}
    assert _epochs([_row("v0", "failed"), _row("k0")]) == {"v0": "-", "k0": "-"}


def test_an_epoch_without_the_metric_reaches_nothing():
    curve = curve_of([{"epoch": 1}, {"epoch": 2, "top1": 70.0}], "top1")
    assert curve.split()[0] == "nan"
    rows = [{**_row("v0"), "validation_curve": curve}]
    assert with_epochs_to(rows, "v", "top1")[0]["epochs_to_reference"] == 2

    # beside a run of a table without curves, no run has an epoch
    old = {name: value for name, value in _row("k0").items() if name != "validation_curve"}
    assert with_epochs_to([_row("v0"), old], "v", "top1") == [_row("v0"), old]
