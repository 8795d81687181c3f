"""The page of results: its tables are those of the runs, and the committed page is up to date."""

import csv
import re

import pytest
from scipy.stats import ttest_1samp

from kat.analysis.runs import METRICS, read_runs, write_runs
from kat.nn.stability import COLUMNS, write_rows
from scripts import results_page


def _row(cell, seed, test, run):
    return {
        "cell": cell, "seed": seed, "status": "done", "top1": 80.0, "test_top1": test,
        "test_last_top1": test - 1, "parameters": 10, "flops": 20, "seconds": 1.0, "run": run,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """The --out of two grids, one of which has records of its layers."""
    out = tmp_path / "runs"
    rows = [
        _row("KAT", 0, 90.0, "runs/a"), _row("KAT", 1, 91.0, "runs/b"),
        _row("ViT", 0, 88.0, "runs/c"), _row("ViT", 1, 88.5, "runs/d"),
    ]  # fmt: skip
    out.mkdir()
    for name in ("paper_models", "paper_depth"):
        write_runs(rows, out / f"{name}.csv")
    for run, gain in zip("abcd", (1.0, 2.0, 0.5, 0.25), strict=True):
        folder = out / "runs" / run
        folder.mkdir(parents=True)
        values = {name: 1.0 for name in COLUMNS if name not in ("step", "layer")} | {
            "output_variance": 3, "numerator_gradient": gain, "weight_gradient": 0.5,
        }  # fmt: skip
        write_rows(
            [
                {"step": step, "layer": layer, **values, "gain": gain + step}
                for step in (0, 5, 9)
                for layer in ("blocks.0.mlp.act1", "blocks.0", "blocks.1")
            ],
            folder / "stability.csv",
        )
    return out


def test_page_has_means_differences_and_moments_of_the_runs(runs, tmp_path):
    results, page, figures = (tmp_path / name for name in ("results", "page.md", "figures"))
    marks = [f"<!-- table of {name} -->\nold\n<!-- end of table -->" for name in (
        "paper_models", "paper_depth_moments", "paper_absent")]  # fmt: skip
    page.write_text("\n\ntext\n\n".join(["# Results", *marks]))
    results_page.take_over(runs, results)
    results_page.write_page(results, page, figures)
    text = page.read_text()
    assert text.count("old") == 1  # of the grid without runs
    assert "| KAT | 90.50 ± 6.35 |" in text
    assert "| ViT | 88.25 ± 3.18 | 87.25 ± 3.18 | -2.25 ± 3.18 |" in text
    assert "| KAT | 1 to 2 | 10 to 11 | 3 | 3 | 4 | 4 |" in text
    assert "| ViT | 0.25 to 0.5 | 9.2 to 9.5 | 3 | 3 | 1 | 1 |" in text
    assert {path.name for path in figures.iterdir()} == {
        "forest.svg", "paper_models.svg", "paper_depth.svg",
    }  # fmt: skip
    results_page.write_page(results, page, figures)
    assert page.read_text() == text


def test_forest_has_the_tested_grids_alone(runs, tmp_path, monkeypatch):
    untested = [{**row, "test_top1": None} for row in read_runs(runs / "paper_models.csv")]
    write_runs(untested, runs / "paper_search.csv")
    (page := tmp_path / "page.md").write_text("# Results\n")
    drawn = []
    monkeypatch.setattr(results_page, "draw_forest", lambda grids, *_: drawn.extend(grids))
    monkeypatch.setattr(results_page, "save_figure", lambda figure, path: path.touch())
    results_page.write_page(runs, page, tmp_path / "figures")
    assert drawn == ["models", "depth"]  # as declared


def test_times_of_runs_that_shared_the_machine_are_marked():
    metric = METRICS["top1"]._replace(name="test_top1")
    rows = [{**_row(str(seed), seed, 80.0, "x"), "runs_at_once": "1"} for seed in (0, 1)]
    assert results_page.timing(rows, metric) == (False, "")
    rows[1]["runs_at_once"] = "3"
    shared, note = results_page.timing(rows, metric)
    assert shared
    assert "while up to 3 runs shared the machine" in note
    rows[1]["runs_at_once"] = ""
    shared, note = results_page.timing(rows, metric)
    assert not shared
    assert note.startswith("It is not recorded how many runs shared the machine")


def test_p_values_are_corrected_in_their_grid_and_over_all(tmp_path):
    close, far, none = (2.0, 2.1, 2.05), (1.0, 2.0, 1.5), (-1.0, 1.0, 0.1)
    grids = {"paper_models": {"ViT": far, "KAN": close}, "paper_groups": {"1": none}}
    for grid, cells in grids.items():
        rows = [_row("KAT", seed, 80.0, "x") for seed in range(3)] + [
            _row(cell, seed, 80.0 + d, "x")
            for cell, differences in cells.items()
            for seed, d in enumerate(differences)
        ]
        write_runs(rows, tmp_path / f"{grid}.csv")
    page = tmp_path / "page.md"
    page.write_text("<!-- table of corrected -->\n<!-- end of table -->")
    results_page.write_page(tmp_path, page, tmp_path)
    p_close, p_far = (ttest_1samp(values, 0).pvalue for values in (close, far))
    assert p_close < p_far < 0.05
    assert "p, Holm over all 3" in page.read_text()
    lines = [line for line in page.read_text().splitlines() if line.startswith("| models")]
    assert [line.split(" | ")[1] for line in lines] == ["KAN", "ViT"]
    for line, expected in zip(
        lines, [(p_close, 2 * p_close, 3 * p_close), (p_far, p_far, 2 * p_far)], strict=True
    ):
        found = [float(text.strip(" |")) for text in line.split(" | ")[3:]]
        assert found == pytest.approx(expected, rel=0.05)


def test_corrected_p_values_never_fall_with_their_rank():
    assert results_page.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert results_page.holm([0.9, 0.8]) == [1.0, 1.0]


def test_records_are_evenly_spaced_and_those_made_elsewhere_are_kept(runs, tmp_path):
    (row, *_) = read_runs(runs / "paper_depth.csv")
    records = results_page.recorded(row, runs, 3)
    assert [(each["step"], each["part"]) for each in records[::3]] == [
        (0, "0"), (5, "1/2"), (9, "1"),
    ]  # fmt: skip
    results_page.take_over(runs, tmp_path)
    moments = tmp_path / "moments/paper_depth.csv"
    before = moments.read_bytes()
    with moments.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 2 * 3
    assert {(row["part"], row["step"]) for row in rows} == {("0", "0"), ("1", "9")}
    assert read_runs(tmp_path / "paper_models.csv") == read_runs(runs / "paper_models.csv")
    (runs / "runs/a/stability.csv").unlink()
    results_page.take_over(runs, tmp_path)
    assert moments.read_bytes() == before


def test_the_committed_page_has_the_tables_of_the_committed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "save_figure", lambda figure, path: None)
    page = tmp_path / "results.md"
    page.write_text(results_page.PAGE.read_text())
    results_page.write_page(results_page.RESULTS, page, tmp_path / "figures")
    assert page.read_text() == results_page.PAGE.read_text()
    marks = re.findall("<!-- table of (.*) -->", page.read_text())
    files = {
        f"moments/{name.removesuffix('_moments')}" if name.endswith("_moments") else name
        for name in marks
        if name != "corrected"
    }
    assert all((results_page.RESULTS / f"{name}.csv").exists() for name in files)
