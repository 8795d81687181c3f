"""The plan of the domains: what it declares exists, and its differences are those of the rows."""

from __future__ import annotations

import csv
import importlib
import math
import statistics
import sys

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from kat.tables import open_table
from tests.examples.domains import FOLDER

pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def plan(example):
    return example("plan")


@pytest.fixture(scope="module")
def report(plan):
    return importlib.import_module("report")


@pytest.fixture(scope="module")
def comparisons(plan):
    return importlib.import_module("comparisons")


def test_what_is_declared_exists(plan):
    assert (FOLDER / "results").is_dir()
    for name, declared in plan.PLAN.items():
        try:
            domain = importlib.import_module(name).DOMAIN
        except SystemExit:  # a package is missing
            continue
        assert set(declared["tasks"]) <= set(domain.tasks)
        assert len(set(declared["seeds"])) >= 3
        assert 0 not in declared["seeds"]  # it chooses the rate
        assert declared["steps"] > 0


def test_committed_rows_are_those_of_the_plan(plan):
    """Every arm tried three rates, with a seed that no test has."""
    for name, declared in plan.PLAN.items():
        path = FOLDER / "results" / f"{name}.csv"
        if not path.exists():
            continue
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["steps"] for row in rows} == {str(declared["steps"])}
        assert {row["task"] for row in rows} <= set(declared["tasks"])
        tests = [row for row in rows if row["for"] == "test"]
        assert {int(row["seed"]) for row in tests} <= set(declared["seeds"])
        keys = [(row["task"], row["arm"], row["seed"]) for row in tests]
        assert len(set(keys)) == len(keys)
        for task, arm, _ in keys:
            tried = [r for r in rows if r["for"] == "tune" and (r["task"], r["arm"]) == (task, arm)]
            assert len(tried) == 3
            assert {row["test"] for row in tried} == {""}


ERRORS = {"gelu": (0.5, 0.4, 0.6), "grkan": (0.4, 0.4, 0.5), "swiglu": (0.5, 0.5, 0.9)}


@pytest.fixture
def results(plan, tmp_path, monkeypatch):
    """Rows of a domain with two measures, of which the second is twice the first."""
    runner = importlib.import_module("runner")
    domain = runner.Domain(
        "", "made_up", ["s"], dict.fromkeys(ERRORS, (0.1,)), 7, columns=("hard",),
        measures=("test", "hard"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "made_up", type(sys)("made_up"))
    sys.modules["made_up"].DOMAIN = domain
    monkeypatch.setitem(plan.PLAN, "made_up", {"tasks": ["s"], "seeds": [1, 2, 3], "steps": 7})
    with (tmp_path / "made_up.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*runner.COLUMNS, "hard"))
        writer.writeheader()
        for arm, errors in ERRORS.items():
            tuned = {"task": "s", "arm": arm, "seed": 0, "for": "tune", "rate": 0.1, "steps": 7}
            writer.writerow(tuned | {"valid": 2.0})
            for seed, error in enumerate(errors, start=1):
                row = {"task": "s", "arm": arm, "seed": seed, "for": "test", "rate": 0.1}
                writer.writerow(row | {"steps": 7, "test": error, "hard": 2 * error})
    return tmp_path


def test_differences_are_paired_ratios(comparisons, results):
    test, hard = comparisons.lines("made_up", results)
    assert (test.task, hard.task) == ("s", "s, hard")
    assert test.errors["gelu"].mean == pytest.approx(0.5)
    titles = [each.title for each in test.differences]
    assert titles == ["GR-KAN - GELU", "GR-KAN - SwiGLU", "SwiGLU - GELU"]
    one, two, _ = test.differences
    assert 1 + two.mean / 100 == pytest.approx((0.8 * 0.8 * 5 / 9) ** (1 / 3))
    logs = [math.log(0.8), 0.0, math.log(5 / 6)]
    half_width = t.ppf(0.975, 2) * statistics.stdev(logs) / 3**0.5
    expected = [sum(logs) / 3 + side * half_width for side in (0, -1, 1)]
    assert [math.log1p(each / 100) for each in one[1:4]] == pytest.approx(expected)
    assert one.p == pytest.approx(ttest_rel(*np.log([ERRORS["grkan"], ERRORS["gelu"]])).pvalue)
    assert hard.differences[0][1:] == pytest.approx(one[1:])  # twice the errors of both


@pytest.mark.parametrize("value", ["nan", "inf", "0.0"])
def test_a_run_that_diverged_or_has_no_error_has_no_ratio(comparisons, report, results, value):
    path = results / "made_up.csv"
    path.write_text(path.read_text().replace("0.9,", f"{value},").replace(",1.8", f",{value}"))
    lines = list(comparisons.lines("made_up", results))
    for line in lines:
        assert [each.title for each in line.differences] == ["GR-KAN - GELU"]
        assert "swiglu" in line.errors
    means = {mean for _, _, arm, mean, *_ in report.cells(lines) if arm == "swiglu"}
    assert value == "0.0" or means == {value}


def test_intervals_are_counted_by_the_side_of_zero_on_which_they_lie(comparisons, report):
    line, difference = comparisons.Line, comparisons.Difference
    made = [
        line("d", "t", {}, [difference("GR-KAN - GELU", mean, mean - 2, high, p)])
        for mean, high, p in (
            (-3, -1, 0.009),
            (-1, 1, 0.3),
            (1, 10, 0.2),
            (1, 11, 0.1),
            (5, 7, 0.02),
        )
    ]  # Holm: 5 * 0.009 < 0.05 < 4 * 0.02
    assert report.counts(made).splitlines()[2:] == ["| GR-KAN - GELU | 1 (1) | 2 | 1 | 1 (0) |"]


def test_the_kept_rate_is_the_best_on_validation(comparisons, report, results):
    domain = sys.modules["made_up"].DOMAIN
    domain.rates = dict.fromkeys(ERRORS, (0.1, 0.3, 0.05)) | {"boosting": (1,)}
    domain.references = {"grkan": "gelu", "swiglu": "gelu"}
    valid = {"gelu": (3, 1), "grkan": (1, 3), "swiglu": (3, "nan")}
    with (results / "made_up.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, (*importlib.import_module("runner").COLUMNS, "hard"))
        for arm, errors in valid.items():
            for rate, error in zip((0.05, 0.3), errors, strict=True):
                row = {"task": "s", "arm": arm, "seed": 0, "for": "tune", "rate": rate}
                writer.writerow(row | {"steps": 7, "valid": error})
    kept = list(comparisons.kept_rates("made_up", results))
    assert kept == [0, 2, 1]
    assert report.rates({"a": kept, "b": [2, 2]}).splitlines()[2:] == [
        "| a | 1 | 1 | 1 |", "| b | 0 | 0 | 2 |",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_and_the_summary_have_the_committed_rows(comparisons, report):
    """``python examples/domains/report.py`` writes both, by ``--page`` and ``--csv``.

    The page has no table of the two domains with the most rows.
    """
    page = (FOLDER.parents[1] / "docs" / "domains.md").read_text()
    with open_table(FOLDER / "results" / "summary.csv", "a summary") as rows:
        summary = [tuple(row.values()) for row in rows]
    for name in report.PLAN:
        try:
            found = list(comparisons.lines(name, FOLDER / "results"))
        except SystemExit:  # a package is missing
            continue
        assert (report.table(found) in page) == (name not in ("tables", "series")), name
        made, kept = list(report.cells(found)), [row for row in summary if row[0] == name]
        assert [row[:3] for row in made] == [row[:3] for row in kept]
        numbers = np.array([[row[3:] for row in rows] for rows in (made, kept)], float)
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, nan_ok=True)
