"""Rows of earlier tables in the place of runs: which one counts, and when none does."""

from __future__ import annotations

import pytest

from kat.analysis.ablation import write_runs
from kat.analysis.earlier_runs import earlier_runs, with_earlier
from kat.cli.ablate import make_parser, plan_grid
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
    with pytest.raises(InputError, match=r"1\.csv has top-1 90.5 for runs/.* before it 90.0"):
        _read(tmp_path, [row()], [row(top1=90.5)])


def test_a_table_of_something_else_is_named(row, tmp_path):
    nameless = {name: value for name, value in row().items() if name != "run"}
    with pytest.raises(InputError, match=r"0\.csv does not name the run directory"):
        _read(tmp_path, [nameless])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"other\.csv"):
        earlier_runs([tmp_path / "other.csv"])
