"""``kat plot curves`` as a user calls it: folders, seeds together, tables of ``kat ablate``."""

from __future__ import annotations

import pytest

from kat.analysis.runs import read_runs, write_runs
from kat.cli.plot import curves
from tests.cli.commands import refused, run
from tests.cli.plot.small_runs import SUMMARY, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of one setting, one of another, and a table of them with a run that failed."""
    out = tmp_path_factory.mktemp("runs")
    made = {"a0": (90.0, 0, 0.001), "a1": (92.0, 1, 0.001), "b0": (80.0, 0, 0.01)}
    for name, (top1, seed, lr) in made.items():
        write_run(out / "runs" / name, top1=top1, seed=seed, lr=lr)
    rows = [
        {"cell": n[0], "seed": s, "status": "done", "top1": t, **SUMMARY, "run": f"runs/{n}"}
        for n, (t, s, _) in made.items()
    ]
    rows.append({"cell": "b", "seed": 1, "status": "failed", "run": "runs/b1"})
    write_runs(rows, out / "lr.csv")
    write_runs([{"cell": "b", "seed": 1, "status": "failed", "run": "x"}], out / "failed.csv")
    return out


@pytest.fixture
def drawn(monkeypatch):
    """The lines that would have been drawn: their labels and last top-1."""
    calls = []

    def keep(lines, path, metrics):
        calls.append({k: [rows[-1]["top1"] for rows in v] for k, v in lines.items()})

    monkeypatch.setattr(curves, "plot_learning_curves", keep)
    return calls


def test_lines_of_folders_and_tables(runs, tmp_path, drawn):
    folders = [runs / "runs" / name for name in ("a0", "b0", "a1")]
    for arguments in (
        folders,
        [*folders, "--group"],
        [*folders, "--group", "--labels", "low", "high"],
        [runs / "lr.csv"],
        [runs / "lr.csv", folders[1]],
    ):
        assert run("plot", "curves", *arguments, "--out", tmp_path / "c.png") == 0
    assert drawn == [
        {"a0": [90.0], "b0": [80.0], "a1": [92.0]},
        {"a0": [90.0, 92.0], "b0": [80.0]},
        {"low": [90.0, 92.0], "high": [80.0]},
        {"a": [90.0, 92.0], "b": [80.0]},
        {"lr: a": [90.0, 92.0], "lr: b": [80.0], "b0": [80.0]},
    ]


def test_the_figure_is_written(runs, tmp_path, capsys):
    out = tmp_path / "curves.svg"
    assert run("plot", "curves", runs / "lr.csv", "--metric", "top5", "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "validation top-5" in out.read_text()
    assert "a (2 runs)" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["runs/a0", "--metric", "top2"], "argument --metric: invalid choice: 'top2' (choose from"),
        (["runs/a0", "--metric", "raw_top1"], "'a0' has no epoch at which all its runs have raw"),
        (["runs/a0", "lr.csv", "--labels", "x"], "--labels must be 3 different names, for a0, lr:"),
        (["runs/a0", "runs/b0", "--labels", "x", "x"], "--labels must be 2 different names"),
        (["runs"], "runs is neither a run directory nor a .csv of 'kat ablate'"),
        (["none.csv"], "none.csv does not exist"),
        (["failed.csv"], "no run of failed.csv is done"),
    ],
)
def test_what_is_wrong_is_named(runs, tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(runs)
    assert says in refused(capsys, "plot", "curves", *arguments, "--out", tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("history", [None, "epoch,top1\n"])
def test_a_run_without_an_epoch_behind_it_is_named(tmp_path, capsys, history):
    folder = write_run(tmp_path / "new")
    (folder / "history.csv").unlink()
    if history is not None:
        (folder / "history.csv").write_text(history)
    line = refused(capsys, "plot", "curves", folder, "--out", tmp_path / "c.png")
    assert "new is done and has a history.csv with an epoch in it" in line


def test_a_run_of_a_table_whose_directory_was_not_kept_is_left_out(runs, tmp_path, drawn, capsys):
    rows = [*read_runs(runs / "lr.csv"), {**read_runs(runs / "lr.csv")[0], "run": "runs/moved"}]
    write_runs(rows, runs / "reused.csv")
    assert run("plot", "curves", runs / "reused.csv", "--out", tmp_path / "c.png") == 0
    assert drawn == [{"a": [90.0, 92.0], "b": [80.0]}]
    assert "runs/moved is left out: it has no history.csv" in capsys.readouterr().err
