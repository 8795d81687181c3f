"""Turns: every candidate as often, none right after itself, no place preferred. Tables."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from benchmarks.timing import header, take_turns
from kat.machine import processor
from kat.training.record.provenance import commit


def test_of_no_candidates_there_are_no_times():
    assert take_turns({}, 0, "cpu") == {}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_no_candidate_has_a_place_of_its_own(count):
    seen = []
    steps = {name: lambda name=name: seen.append(name) for name in "abcde"[:count]}
    times = take_turns(steps, 0.05, "cpu")
    timed = seen[count:]  # after the untimed round
    rounds = len(timed) // count
    assert {len(values) for values in times.values()} == {rounds}
    assert rounds > 40
    assert count == 1 or all(one != other for one, other in pairwise(timed))
    if count > 2:  # two take strict turns
        for place in range(count):
            there = Counter(timed[place::count])
            assert all(abs(there[name] * count / rounds - 1) < 0.5 for name in steps)


def test_the_lines_above_a_table_say_commit_torch_threads_and_processor():
    said = (commit(), torch.__version__, f"{torch.get_num_threads()} threads", processor())
    assert all(text in header("cpu") for text in said)
