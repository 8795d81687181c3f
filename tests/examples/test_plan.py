"""The plan of the domains: what it declares exists, and its differences are those of the rows."""

from __future__ import annotations

import csv
import importlib
import math
import statistics
import sys
from pathlib import Path

import pytest
from PIL import Image
from scipy.stats import t

FOLDER = Path(__file__).parents[2] / "examples" / "domains"
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def plan():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("plan")


@pytest.fixture(scope="module")
def report(plan):
    return importlib.import_module("report")


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
    """And every arm tried as many rates, with the seed that tests do not have."""
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
            for seed, error in enumerate(errors, start=1):
                row = {"task": "s", "arm": arm, "seed": seed, "for": "test", "rate": 0.1}
                writer.writerow(row | {"steps": 7, "test": error, "hard": 2 * error})
    return tmp_path


def test_differences_are_paired_ratios(report, results):
    test, hard = report.lines("made_up", results)
    assert (test.task, hard.task) == ("s", "s, hard")
    assert test.errors["gelu"] == "0.50 ± 0.25"
    assert [each.arm for each in test.differences] == ["grkan", "swiglu"]
    one, _ = test.differences
    logs = [math.log(0.8), 0.0, math.log(5 / 6)]
    half_width = t.ppf(0.975, 2) * statistics.stdev(logs) / 3**0.5
    assert 1 + one.mean / 100 == pytest.approx((0.8 * 5 / 6) ** (1 / 3))
    assert 1 + one.low / 100 == pytest.approx((0.8 * 5 / 6) ** (1 / 3) / math.exp(half_width))
    assert 1 + one.high / 100 == pytest.approx((0.8 * 5 / 6) ** (1 / 3) * math.exp(half_width))
    assert hard.differences[0] == pytest.approx(one)  # twice the errors of both


def test_without_an_error_there_is_no_ratio(report, results):
    path = results / "made_up.csv"
    path.write_text(path.read_text().replace("0.9,", "0.0,").replace(",1.8", ",0.0"))
    for line in report.lines("made_up", results):
        assert [each.arm for each in line.differences] == ["grkan"]
        assert "swiglu" in line.errors


def test_intervals_are_counted_by_the_side_of_zero_on_which_they_lie(report):
    made = [
        report.Line("d", "t", {}, [report.Difference("grkan", mean, mean - 2, mean + 2)])
        for mean in (-3.0, -1.0, 1.0, 1.5, 5.0)
    ]
    (line,) = (line for line in report.counts(made).splitlines() if "| GR-KAN - GELU" in line)
    assert line == "| GR-KAN - GELU | 1 | 3 | 1 | +1.0 |"


def test_the_page_has_a_table_and_a_plot(report, results, tmp_path, monkeypatch, capsys):
    path = tmp_path / "forest.png"
    options = ["--domain", "made_up", "--results", str(results)]
    for further in ([], ["--forest", str(path)]):
        monkeypatch.setattr(sys, "argv", ["report.py", *options, *further])
        report.main()
    printed = capsys.readouterr().out
    assert "| s, hard | 1.00 ± 0.50 |" in printed
    assert "4 differences" in printed
    with Image.open(path) as image:
        assert image.width > 1000
