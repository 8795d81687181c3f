"""The page of results: its tables are those of the runs, and the committed page is up to date."""

import csv
import re

import pytest
from scipy.stats import ttest_1samp, ttest_ind

from kat.analysis.runs import read_runs, write_runs
from kat.errors import InputError
from kat.nn.stability import COLUMNS, write_rows
from scripts import results_page


def _row(cell, seed, test, run):
    return {
        "cell": cell, "seed": seed, "status": "done", "top1": 80.0, "test_top1": test,
        "test_last_top1": test - 1, "test_loss": 1 - test / 100, "parameters": 10, "flops": 20,
        "seconds": 1.0, "run": run, "settings": "{}",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def study(request, monkeypatch):
    """The tables of a test are a study of their own: each run declared, and one family."""
    if "committed" not in request.node.name:
        monkeypatch.setattr(results_page, "declared", _as_it_stands)
        family = results_page.Family("KAT minus", "models", "KAT", {"a ViT": "ViT"})
        monkeypatch.setattr(results_page, "FAMILIES", [family])


def _as_it_stands(results):
    tables = {path.stem: read_runs(path) for path in results.glob("paper_*.csv")}
    return {
        name: {(row["cell"], row["seed"]): row["settings"] for row in rows}
        for name, rows in tables.items()
    }


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
    page.write_text("\n\ntext\n\n".join(["# Results", "![](x/paper_models.svg)", *marks]))
    results_page.take_over(runs, results)
    results_page.write_pages(results, [page], figures)
    text = page.read_text()
    assert text.count("old") == 1  # of the grid without runs
    assert "| KAT | 90.50 ± 6.35 |" in text
    assert "| ViT | 88.25 ± 3.18 | 87.25 ± 3.18 | -2.25 ± 3.18 |" in text
    assert "| KAT | 1 to 2 | 10 to 11 | 3 | 3 | 4 | 4 |" in text
    assert "| ViT | 0.25 to 0.5 | 9.2 to 9.5 | 3 | 3 | 1 | 1 |" in text
    assert {path.name for path in figures.iterdir()} == {"forest.svg", "paper_models.svg"}
    results_page.write_pages(results, [page], figures)
    assert page.read_text() == text


def test_families_have_the_first_named_minus_the_other(runs, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(results_page, "draw_forest", lambda groups, label: drawn.update(groups))
    monkeypatch.setattr(results_page, "save_figure", lambda figure, path: None)
    page = tmp_path / "page.md"
    page.write_text("<!-- table of families -->\n<!-- end of table -->")
    results_page.write_pages(runs, [page], tmp_path)
    ((name, difference),) = drawn["KAT minus"]
    assert (name, difference.text()) == ("a ViT", "2.25 ± 3.18")
    (line,) = [line for line in page.read_text().splitlines() if "a ViT" in line]
    _, _, _, declared, _, _, welch, dunnett, p, verdict, loss, _ = line.split("|")
    pooled = ttest_ind([90.0, 91.0], [88.0, 88.5])  # Dunnett's test of a single pair
    ends = [float(end) for end in dunnett.split(" to ")]
    assert ends == pytest.approx(list(pooled.confidence_interval()), abs=0.05)
    assert float(p) == pytest.approx(pooled.pvalue, abs=0.002)
    apart = ttest_ind([90.0, 91.0], [88.0, 88.5], equal_var=False).confidence_interval()
    assert welch.strip() == f"+2.25 ± {(apart.high - apart.low) / 2:.2f}"
    assert [declared.strip(), verdict.strip()] == ["+2.25 ± 3.18", ""]
    assert loss.strip() == "-0.0225 ± 0.0318"
    reverse = results_page.FAMILIES[0]._replace(minus_reference=True)
    monkeypatch.setattr(results_page, "FAMILIES", [reverse])
    results_page.write_pages(runs, [page], tmp_path)
    assert "| -2.25 ± 3.18 |" in page.read_text()
    assert f"| {-ends[1]:+.2f} to {-ends[0]:+.2f} |" in page.read_text()


def test_runs_that_are_not_declared_are_refused_and_missing_ones_named(runs, tmp_path, monkeypatch):
    declared = _as_it_stands(runs)
    declared["paper_models"]["ViT", 2] = "{}"
    monkeypatch.setattr(results_page, "declared", lambda results: declared)
    page = tmp_path / "page.md"
    page.write_text(text := "<!-- table of paper_models -->\n<!-- end of table -->")
    results_page.write_pages(runs, [page], tmp_path)
    assert "| 2 of 3 |" in page.read_text()
    assert "Without a result: ViT, seed 2 (missing)." in page.read_text()
    page.write_text(text)
    declared["paper_models"]["KAT", 1] = '{"epochs": 3}'
    with pytest.raises(
        InputError, match=r"paper_models.csv: no grid declares this run of 'KAT', seed 1,"
    ):
        results_page.write_pages(runs, [page], tmp_path)
    assert page.read_text() == text
    declared["paper_models"]["KAT", 1] = "{}"
    declared["paper_blocks"] = {}
    with pytest.raises(InputError, match=r"paper_blocks.csv does not exist: 'kat ablate' makes it"):
        results_page.write_pages(runs, [page], tmp_path)
    del declared["paper_blocks"], declared["paper_depth"]
    with pytest.raises(InputError, match=r"paper_depth.csv: no grid declares this run of 'KAT'"):
        results_page.write_pages(runs, [page], tmp_path)


def test_p_values_are_corrected_in_their_grid_and_over_all(tmp_path):
    close, far, none = (2.0, 2.1, 2.05), (1.0, 2.0, 1.5), (-1.0, 1.0, 0.1)
    grids = {"paper_models": {"ViT": far, "KAN": close}, "paper_groups": {"1": none}}
    for grid, cells in grids.items():
        rows = [_row("KAT", seed, 80.0 + seed, "x") for seed in range(3)] + [
            _row(cell, seed, 80.0 + seed + d, "x")
            for cell, differences in cells.items()
            for seed, d in enumerate(differences)
        ]
        write_runs(rows, tmp_path / f"{grid}.csv")
    page = tmp_path / "page.md"
    page.write_text("<!-- table of declared -->\n<!-- end of table -->")
    results_page.write_pages(tmp_path, [page], tmp_path)
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


@pytest.mark.slow
def test_the_committed_pages_have_the_tables_of_the_committed_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "save_figure", lambda figure, path: None)
    pages = [tmp_path / page.name for page in results_page.PAGES]
    texts = [page.read_text() for page in results_page.PAGES]
    for page, text in zip(pages, texts, strict=True):
        table = re.compile("(<!-- table of .* -->).*?(<!-- end of table -->)", re.DOTALL)
        page.write_text(table.sub(r"\1\2", text))  # a table without a file stays empty
    results_page.write_pages(results_page.RESULTS, pages, tmp_path / "figures")
    assert [page.read_text() for page in pages] == texts
