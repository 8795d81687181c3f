"""The plan of the domains: what it declares exists, and the committed rows are its runs."""

from __future__ import annotations

import csv
import importlib

import pytest

from tests.examples.domains import FOLDER


@pytest.fixture(scope="module")
def plan(example):
    return example("plan")


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
