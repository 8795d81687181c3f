"""``kat plot cost`` as a user calls it."""

from __future__ import annotations

import pytest

from kat.analysis import count
from kat.analysis.ablation import Estimate
from kat.analysis.figures.grids import COSTS, cost_of
from kat.analysis.runs import write_runs
from kat.cli.plot import cost
from kat.models import load_model
from tests.analysis.report_pages import grid_rows, rows_with_test
from tests.cli.commands import refused, run
from tests.cli.plot.small_runs import RECORD, SUMMARY, write_run


@pytest.fixture
def drawn(monkeypatch):
    """The cells that would have been drawn, and against what."""
    calls = []
    monkeypatch.setattr(cost, "draw_costs", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(cost, "save_figure", lambda figure, path: None)
    return calls


def test_points_of_folders(tmp_path, drawn):
    folders = [write_run(tmp_path / f"a{seed}", top1=90.0 + seed, seed=seed) for seed in (0, 2)]
    assert run("plot", "cost", *folders, "--group", "--labels", "KAT", "--x", "flops") == 0
    ((cell,), _, costs), *_ = drawn
    assert costs == ["flops"]
    assert (cell.name, cell.estimate) == ("KAT", Estimate.of([90.0, 92.0]))
    assert {name: cost_of(cell, name) for name in COSTS} == {
        "parameters": 1000,
        "flops": count(load_model(folders[0])[0], RECORD.input_size).flops,
        "seconds": 60.0,
        "memory": 1e9,
    }


def test_a_table_is_drawn_without_its_folders(tmp_path, capsys):
    rows = [
        {"cell": c, "seed": s, "status": "done", **SUMMARY, "top1": t + s, "flops": f, "run": "x"}
        for c, t, f in (("KAT", 86.0, 3e6), ("ViT", 85.0, 2e6), ("worse", 80.0, 4e6))
        for s in (0, 1)
    ]
    rows = [{**row, "flops": int(row["flops"])} for row in rows]
    rows.append({"cell": "lost", "seed": 0, "status": "diverged", "run": "y"})
    write_runs(rows, tmp_path / "models.csv")
    out = tmp_path / "cost.svg"
    assert run("plot", "cost", tmp_path / "models.csv", "--out", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "left out, no run is done: lost",
        "Pareto front in parameters: KAT",
        "Pareto front in flops: ViT, KAT",
    ]
    assert said[-1] == str(out)
    assert out.read_text().count("slowed each other down") == 1


def test_a_tested_grid_is_drawn_by_its_test(tmp_path, drawn, capsys):
    untested = {**rows_with_test()[0], "cell": "untested", "test_top1": None}
    write_runs([*rows_with_test(), untested], tmp_path / "tested.csv")
    assert run("plot", "cost", tmp_path / "tested.csv", "--x", "parameters") == 0
    ((cells, metric, _),) = drawn
    assert (metric.name, metric.label) == ("test_top1", "test top-1")
    means = {cell.name: cell.estimate and cell.estimate.mean for cell in cells}
    assert means == {"KAT": 74.0, "ViT": 73.25, "untested": None}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "left out, no run has a test top-1: untested"


def test_the_axis_says_which_images(tmp_path):
    for name, rows in (("test", rows_with_test()), ("validation", grid_rows())):
        write_runs(rows, tmp_path / f"{name}.csv")
        out = tmp_path / f"{name}.svg"
        assert run("plot", "cost", tmp_path / f"{name}.csv", "--out", out) == 0
        assert out.read_text().count(f"<!-- {name} top-1 (%) -->") == 4


def test_what_is_wrong_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run(tmp_path / "run")
    assert "argument --x: invalid choice: 'flop' (choose from" in refused(
        capsys, "plot", "cost", folder, "--x", "flop"
    )
    (folder / "summary.json").unlink()
    assert "run has no result yet: there is no summary.json in it" in refused(
        capsys, "plot", "cost", folder
    )
    for name in ("cost", "cost.gif"):
        line = refused(capsys, "plot", "cost", folder, "--out", name)
        assert f"'{name}' must end in .png or .svg or .pdf" in line
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
