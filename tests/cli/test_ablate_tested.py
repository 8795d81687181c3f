"""``kat ablate`` of a grid whose runs are tested on images apart from those that choose."""

from __future__ import annotations

import json
import shutil

import pytest

from kat.analysis.runs import read_runs
from kat.training import read_history
from tests.cli.commands import grid_writer, refused, run
from tests.cli.test_ablate import GRID as SMALL

pytestmark = pytest.mark.slow

GRID = {
    **SMALL,
    "settings": {
        "epochs": 2, "limit_train_batches": 5, "optim.warmup_epochs": 0, "optim.lr": 0.004,
        "model.args.depth": 1, "accelerator": "cpu", "data.validate_on": "holdout",
    },
    "test": True,
    "reached": 1,
}  # fmt: skip
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
    plain = read_runs(out / "plain.csv")
    assert not any("test" in name and row[name] for row in plain for name in row)
    first, second = (out / row["run"] / "last.ckpt" for row in plain)
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
            found = json.loads(path.read_text())
            assert found["images"] == 360
            assert {m: row[f"{prefix}_{m}"] for m in METRICS} == pytest.approx(
                {m: found[m] for m in METRICS}, rel=1e-5
            )
    assert rows[0]["test_loss"] != rows[0]["test_last_loss"] == rows[1]["test_last_loss"]
    assert f"| {rows[0]['test_top1']:.2f} |" in (out / "small.md").read_text()

    best = max(read_history(out / rows[1]["run"]), key=lambda line: line["top1"])
    assert rows[1]["epochs_to_reference"] == best["epoch"]

    other, table = tmp_path / "other", out / "small.csv"
    assert run("ablate", grid(), "--out", other, "--reuse", out / "plain.csv", table) == 0
    assert (other / "small.csv").read_bytes() == table.read_bytes()
    tested, table = _times(out, "test.json"), (out / "small.csv").read_bytes()
    assert run("ablate", grid(), "--out", out) == 0
    assert (_times(out, "test.json"), (out / "small.csv").read_bytes()) == (tested, table)
    assert run("report", out / "small.csv") == 0
    assert "test top-1" in (out / "small.html").read_text()
    # a run that is resumed has to be tested again
    folder = out / rows[1]["run"]
    command = ("train", "--config", folder / "run.yaml", "--out", folder, "--resume", "true")
    assert run(*command, "--no-progress", "--epochs", 3) == 0
    assert not (folder / "test.json").exists()


def test_test_images_that_choose_the_epoch_are_refused(grid, tmp_path, capsys):
    settings = {**GRID["settings"], "data.validate_on": "split"}
    tune = {"setting": "optim.lr", "values": [0.1, 0.2], "seed": 100}
    for more in ({}, {"tune": tune}):  # before anything is trained
        path = grid(settings=settings, **more)
        line = refused(capsys, "ablate", path, "--out", tmp_path / "none")
        assert "needs data.validate_on=holdout" in line
    assert not (tmp_path / "none").exists()
