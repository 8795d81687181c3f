"""``kat plot forest`` as a user calls it."""

from __future__ import annotations

import re

from kat.analysis.runs import write_runs
from tests.analysis.report_pages import grid_rows, rows_with_test
from tests.cli.commands import refused, run


def _texts(path):
    """The texts of an SVG."""
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_grids_are_drawn_below_each_other(tmp_path, capsys):
    paths = [tmp_path / name / "models.csv" for name in ("a", "b")]
    for path, scale in zip(paths, (1.0, 0.5), strict=True):
        path.parent.mkdir()
        write_runs([{**row, "top1": row["top1"] * scale} for row in grid_rows()], path)
    out = tmp_path / "forest.svg"
    assert run("plot", "forest", *paths, paths[0], "--out", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    texts = _texts(out)
    names = ["a_models (minus KAT)", "ViT (a long name)", "b_models (minus KAT)"]
    assert [text for text in texts if text in names] == [*names[:2], names[2], names[1]]
    assert [text for text in texts if "±" in text] == ["-2.90 ± 0.66", "-1.45 ± 0.33"]


def test_tested_grids_are_compared_by_their_test(tmp_path, capsys):
    lost = {"cell": "lost", "seed": 0, "status": "diverged", "run": "x"}
    write_runs([*rows_with_test(), lost], tmp_path / "tested.csv")
    out = tmp_path / "forest.svg"
    assert run("plot", "forest", tmp_path / "tested.csv", "--out", out) == 0
    assert capsys.readouterr().out.splitlines() == [
        "left out, no seed in common with 'KAT': tested: lost",
        str(out),
    ]
    assert [text[:5] for text in _texts(out) if "±" in text] == ["-0.75"]  # +0.75 in validation
    assert "difference from the grid's first cell (points of test top-1)" in _texts(out)
    write_runs(grid_rows(), tmp_path / "plain.csv")
    line = refused(capsys, "plot", "forest", tmp_path / "tested.csv", tmp_path / "plain.csv")
    assert "one metric: 'tested' by test top-1, 'plain' by validation top-1" in line


def test_what_is_wrong_is_named(tmp_path, capsys):
    assert "none.csv does not exist" in refused(capsys, "plot", "forest", tmp_path / "none.csv")
    write_runs(grid_rows()[:3], tmp_path / "one.csv")
    line = refused(capsys, "plot", "forest", tmp_path / "one.csv")
    assert "no cell can be compared with the first of its grid" in line
    line = refused(capsys, "plot", "forest", tmp_path / "one.csv", "--out", tmp_path / "a.gif")
    assert "must end in .png or .svg or .pdf" in line
