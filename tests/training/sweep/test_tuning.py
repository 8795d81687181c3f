"""Tuning: which value each cell of a grid gets, from results that are written by hand."""

from __future__ import annotations

import json

import pytest
import yaml

from kat.errors import InputError
from kat.training.sweep.grid import read_grids
from kat.training.sweep.plan import plan_runs, tuned_grid, tuning_grid

TUNE = {"setting": "optim.lr", "values": [0.001, "2e-3", 0.004], "seed": 100}


@pytest.fixture
def grid(tmp_path):
    def write(**changes):
        factors = {"seed of weights": {"a": {}, "b": {"epochs": 3}}}
        content = {"factors": factors, "seeds": [0, 1], "tune": TUNE, **changes}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return read_grids(tmp_path / "small.yaml")[0]

    return write


def _runs(grid, out):
    tuning = tuning_grid(grid, grid.tune)
    return tuning, plan_runs(tuning, {}, out)


def _finish(run, top1):
    run.folder.mkdir(parents=True)
    (run.folder / "summary.json").write_text(json.dumps({"top1": top1}))


def test_each_cell_is_trained_with_each_value_on_the_tuning_seed(grid, tmp_path):
    tuning, runs = _runs(grid(), tmp_path)
    assert (tuning.name, tuning.tune) == ("small_tuning", None)
    assert [(r.cell.name, r.seed, r.job.config.epochs, r.job.config.optim.lr) for r in runs] == [
        (f"{cell}, optim.lr: {lr}", 100, epochs, lr)
        for cell, epochs in (("a", 10), ("b", 3))
        for lr in (0.001, 0.002, 0.004)
    ]
    assert runs[1].cell.levels == {"seed of weights": "a", "optim.lr": "0.002"}


def test_tuning_runs_may_have_settings_of_their_own(grid, tmp_path):
    small = grid(tune={**TUNE, "settings": {"epochs": 2}}, factors={"f": {"a": {}}})
    small.settings = {"epochs": 5}
    _, runs = _runs(small, tmp_path)
    assert [run.job.config.epochs for run in runs] == [2, 2, 2]
    for run in runs:
        _finish(run, 50)
    tuned = tuned_grid(small, small.tune, runs)
    compared = plan_runs(tuned, {}, tmp_path)
    assert [run.job.config.epochs for run in compared] == [5, 5]
    assert not compared[0].done


def test_the_best_value_is_the_cell_s_and_an_edge_is_said(grid, tmp_path):
    small = grid()
    _, runs = _runs(small, tmp_path)
    for run, top1 in zip(runs, [50, 60, 55, 70, 80, 90], strict=True):
        _finish(run, top1)
    tuned = tuned_grid(small, small.tune, runs)
    assert [(cell.name, cell.settings["optim"]["lr"], cell.tuned) for cell in tuned.cells] == [
        ("a", 0.002, "optim.lr=0.002"), ("b", 0.004, "optim.lr=0.004 (edge)")
    ]  # fmt: skip
    assert tuned.cells[1].settings["epochs"] == 3
    assert small.cells[1].settings == {"epochs": 3}
    seeds = [run.seed for run in plan_runs(tuned, {}, tmp_path)]
    assert seeds == [0, 0, 1, 1]


def test_of_equal_values_the_first_is_taken_and_none_without_the_metric(grid, tmp_path):
    small = grid()
    _, runs = _runs(small, tmp_path)
    for run, top1 in zip(runs, [None, 60, 60, None, None, None], strict=True):
        _finish(run, top1)
    assert [cell.tuned for cell in tuned_grid(small, small.tune, runs).cells] == ["optim.lr=0.002"]


def test_a_cell_with_a_run_to_do_has_no_value_yet_but_a_diverged_run_counts(grid, tmp_path):
    small = grid()
    _, runs = _runs(small, tmp_path)
    for run in (runs[0], runs[1], runs[3], runs[4]):
        _finish(run, 50)
    runs[2].folder.mkdir()
    (runs[2].folder / "divergence.json").write_text('{"message": "the loss is not finite"}')
    tuned = tuned_grid(small, small.tune, runs)
    assert [(cell.name, cell.tuned) for cell in tuned.cells] == [("a", "optim.lr=0.001 (edge)")]


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        ({**TUNE, "values": [0.1, "high"]}, "tune.values.1.* got 'high'"),
        ({**TUNE, "setting": "data.crop_pct"}, "cannot tune data.crop_pct: the cell 'c' sets it"),
        ({**TUNE, "settings": {"data.crop_pct": 1}}, "cannot tune data.crop_pct"),
    ],
)
def test_what_is_wrong_is_named(grid, tune, says):
    with pytest.raises(InputError, match=says):
        grid(tune=tune, factors={"f": {"b": {}, "c": {"data.crop_pct": 0.9}}})
