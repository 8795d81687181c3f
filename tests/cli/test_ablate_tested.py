"""``kat ablate`` of a grid whose runs are tested on images apart from those that choose."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from kat.analysis.runs import read_runs
from tests.cli.commands import grid_writer, refused, run
from tests.cli.test_ablate import MEASURED
from tests.processes import start, wait_until

pytestmark = pytest.mark.slow

GRID = {
    "title": "Groups of a tested one?",
    "recipe": "digits",
    "settings": {
        "epochs": 2,
        "limit_train_batches": 5,
        "optim.warmup_epochs": 0,
        "optim.lr": 0.004,
        "model.args.depth": 1,
        "accelerator": "cpu",
        "data.validate_on": "holdout",
    },
    "seeds": [0],
    "factors": {"groups": {"8": {}, "1": {"model.args.num_groups": 1}}},
    "test": True,
    "reached": 1,
}
METRICS = ("top1", "top5", "loss", "ece")


@pytest.fixture
def grid(tmp_path):
    return grid_writer(tmp_path, GRID)


def _times(out, name):
    return {path: path.stat().st_mtime_ns for path in out.glob(f"runs/*/{name}")}


def test_best_and_last_weights_are_tested_as_eval_does(grid, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("ablate", grid("plain", test=False), "--out", out, "--jobs", 2) == 0
    trained = _times(out, "summary.json")
    assert not _times(out, "test.json")
    assert not any(
        "test" in name and row[name] for row in read_runs(out / "plain.csv") for name in row
    )
    first, second = (out / row["run"] / "last.ckpt" for row in read_runs(out / "plain.csv"))
    first.unlink()  # the best and the last epoch may be the same file
    shutil.copy(second, first)
    assert run("ablate", grid(), "--out", out, "--jobs", 2) == 0
    capsys.readouterr()
    assert _times(out, "summary.json") == trained
    rows = read_runs(out / "small.csv")
    for row in rows:
        for prefix, weights in (("test", "best.ckpt"), ("test_last", "last.ckpt")):
            path = tmp_path / "metrics.json"
            command = ("eval", out / row["run"] / weights, "--device", "cpu", "--json", path)
            assert run(*command, "--no-progress") == 0
            said, found = capsys.readouterr().out, json.loads(path.read_text())
            assert found["images"] == 360
            assert {m: row[f"{prefix}_{m}"] for m in METRICS} == pytest.approx(
                {m: found[m] for m in METRICS}, rel=1e-5
            )
            assert f"top-1 {row[f'{prefix}_top1']:.2f} %" in said
            assert f"ECE {row[f'{prefix}_ece']:.4f}" in said
    assert rows[0]["test_loss"] != rows[0]["test_last_loss"] == rows[1]["test_last_loss"]
    means = [f"| {row['test_top1']:.2f} |" for row in rows]
    text = (out / "small.md").read_text()
    assert all(mean in text for mean in means)
    assert "| test top-1 (%) | last epoch (%) |" in text
    assert "| images/s | peak memory |" in text
    assert (out / "small.svg").is_file()

    with (out / rows[1]["run"] / "history.csv").open(newline="") as file:
        target = max(float(line["top1"]) for line in csv.DictReader(file))
    for row in rows:
        with (out / row["run"] / "history.csv").open(newline="") as file:
            reached = [
                int(line["epoch"]) for line in csv.DictReader(file) if float(line["top1"]) >= target
            ]
        assert row["epochs_to_reference"] == (reached[0] if reached else None)

    other, table = tmp_path / "other", out / "small.csv"
    assert run("ablate", grid(), "--out", other, "--reuse", out / "plain.csv", table) == 0
    assert (other / "small.csv").read_bytes() == table.read_bytes()
    plan = ("ablate", grid(), "--out", tmp_path / "none", "--dry-run", "--reuse")
    capsys.readouterr()
    assert run(*plan, out / "plain.csv") == 0  # was not tested
    assert capsys.readouterr().out.count(": to do") == 2
    plain = tmp_path / "plain"
    assert run("ablate", grid("plain", test=False), "--out", plain, "--reuse", table) == 0
    assert (plain / "plain.csv").read_bytes() == (out / "plain.csv").read_bytes()
    both = tmp_path / "both"  # one grid tests the runs of the other
    grids = grid(), grid("plain", test=False)
    assert run("ablate", *grids, "--out", both, "--jobs", 2, "--reuse", out / "plain.csv") == 0
    assert [row["test_top1"] for row in read_runs(both / "small.csv")] == [
        row["test_top1"] for row in rows
    ]

    tested, table = _times(out, "test.json"), (out / "small.csv").read_bytes()
    assert run("ablate", grid(), "--out", out) == 0
    assert (_times(out, "test.json"), (out / "small.csv").read_bytes()) == (tested, table)
    assert run("report", out / "small.csv") == 0
    page = (out / "small.html").read_text()
    assert "Test top-1 by cell" in page


@pytest.mark.release
def test_killed_after_a_test_and_called_again_it_tests_the_others_alone(grid, tmp_path):
    path, clean, killed = grid(), tmp_path / "clean", tmp_path / "killed"
    assert run("ablate", path, "--out", clean, "--jobs", 2) == 0
    process = start("ablate", path, "--out", killed, "--jobs", 1)
    wait_until(lambda: _times(killed, "test.json"), process)
    process.kill()
    process.communicate()
    before = _times(killed, "test.json")
    assert len(before) == 1
    assert run("ablate", path, "--out", killed, "--jobs", 2) == 0
    assert _times(killed, "test.json").items() > before.items()
    for one, other in zip(
        read_runs(clean / "small.csv"), read_runs(killed / "small.csv"), strict=True
    ):
        assert {k: v for k, v in one.items() if k not in MEASURED} == {
            k: v for k, v in other.items() if k not in MEASURED
        }


def test_a_resumed_run_is_tested_again(grid, tmp_path):
    out = tmp_path / "out"
    assert run("ablate", grid(), "--out", out, "--jobs", 2) == 0
    folder = out / read_runs(out / "small.csv")[0]["run"]
    assert (folder / "test.json").is_file()
    command = ("train", "--config", folder / "run.yaml", "--out", folder, "--resume", "true")
    assert run(*command, "--no-progress", "--epochs", 3) == 0
    assert not (folder / "test.json").exists()


def test_test_images_that_choose_the_epoch_are_refused(grid, tmp_path, capsys):
    settings = {**GRID["settings"], "data.validate_on": "split"}
    tune = {"setting": "optim.lr", "values": [0.1, 0.2], "seed": 100}
    for more in ({}, {"tune": tune}):  # before anything is trained
        path = grid(settings=settings, **more)
        line = refused(capsys, "ablate", path, "--out", tmp_path / "none")
        assert "test: true of small needs data.validate_on=holdout in the cell '8'" in line
    assert not (tmp_path / "none").exists()
