"""``kat ablate`` of a grid that tunes a setting: one value is absurd, so the choice is known."""

from __future__ import annotations

import json

import pytest

from kat.analysis.runs import read_runs
from tests.cli.commands import grid_writer, refused, run
from tests.cli.test_ablate import GRID as SMALL
from tests.cli.test_ablate import rows_of
from tests.processes import start, wait_until

pytestmark = pytest.mark.slow

GRID = {
    **SMALL,
    "settings": {
        "epochs": 2, "limit_train_batches": 15, "data.batch_size": 32, "optim.warmup_epochs": 0,
        "model.args.depth": 1, "accelerator": "cpu",
    },
    "tune": {"setting": "optim.lr", "values": ["1e-5", 4.0e-3], "seed": 100},
}  # fmt: skip


@pytest.fixture
def grid(tmp_path):
    return grid_writer(tmp_path, GRID)


def _states(capsys, path, out, *options):
    capsys.readouterr()
    assert run("ablate", path, "--out", out, "--dry-run", *options) == 0
    return [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()]


def test_a_dry_run_lists_the_runs_that_choose_and_says_that_others_follow(grid, tmp_path, capsys):
    assert run("ablate", grid(), "--out", tmp_path / "none", "--dry-run") == 0
    *planned, last = capsys.readouterr().out.splitlines()
    assert [line.count("seed 100: to do") for line in planned] == [1, 1, 1, 1]
    assert "the best optim.lr" in last


@pytest.mark.release
def test_killed_while_it_tunes_and_called_again_it_gives_the_same_tables(grid, tmp_path, capsys):
    path = grid(factors={"groups": {"8": {}}})
    clean, killed = tmp_path / "clean", tmp_path / "killed"
    assert run("ablate", path, "--out", clean, "--jobs", 2) == 0
    assert "optim.lr=0.004 (edge)" in capsys.readouterr().out
    low, high = read_runs(clean / "small_tuning.csv")
    assert [(r["seed"], r["optim.lr"]) for r in (low, high)] == [(100, "1e-05"), (100, "0.004")]
    assert low["top1"] < high["top1"]
    (row,) = read_runs(clean / "small.csv")
    assert (row["cell"], row["seed"], row["tuned"]) == ("8", 0, "optim.lr=0.004 (edge)")
    assert json.loads(row["settings"])["optim"]["lr"] == 0.004
    assert "optim.lr=0.004 (edge)" in (clean / "small.md").read_text()

    process = start("ablate", path, "--out", killed, "--jobs", 1)
    wait_until(lambda: list(killed.glob("runs/*/summary.json")), process)
    process.kill()
    process.communicate()
    finished = next(killed.glob("runs/*/summary.json"))
    before = finished.stat().st_mtime_ns
    assert run("ablate", path, "--out", killed, "--jobs", 2) == 0
    assert finished.stat().st_mtime_ns == before
    for name in ("small_tuning.csv", "small.csv"):
        assert rows_of(clean / name) == rows_of(killed / name)
    assert _states(capsys, path, killed) == 3 * ["finished"]
    reuse = ("--reuse", clean / "small_tuning.csv")  # is all that is needed to choose the values
    assert _states(capsys, path, tmp_path / "none", *reuse) == [*2 * ["finished"], "to do"]


def test_a_tuning_run_that_fails_leaves_its_cell_for_another_call(grid, tmp_path, capsys):
    """A run that diverges is a result: that value is not taken."""
    bad = {"few": {}, "bad": {"model.args": {"num_groups": 7}}}
    tune = {**GRID["tune"], "values": [4.0e-3, 1.0e30]}
    path, out = grid(factors={"f": bad}, tune=tune, seeds=[0]), tmp_path / "out"
    assert run("ablate", path, "--out", out, "--jobs", 1) == 1
    errors = capsys.readouterr().err
    assert "cell 'bad'" in errors
    statuses = [row["status"] for row in read_runs(out / "small_tuning.csv")]
    assert statuses == ["done", "diverged", "failed", "failed"]
    (row,) = read_runs(out / "small.csv")
    assert (row["cell"], row["tuned"]) == ("few", "optim.lr=0.004 (edge)")


def test_the_tuned_setting_and_seed_are_not_the_user_s(grid, tmp_path, capsys):
    out = ("--out", tmp_path / "none")
    line = refused(capsys, "ablate", grid(), "--seeds", 1, 100, *out)
    assert "tuning seed 100" in line
    line = refused(capsys, "ablate", grid(), "--set", "optim.lr=0.1", *out)
    assert "optim.lr: 1e-05" in line
