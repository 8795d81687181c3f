"""The record of how many runs shared the machine."""

from __future__ import annotations

import pytest

from kat.errors import InputError
from kat.training.sweep.concurrency import read_concurrency, record_concurrency


@pytest.fixture
def begin(tmp_path):
    """Begins or resumes a run of so many at once; returns what is then on record."""

    def begin(at_once):
        record_concurrency(tmp_path / "run.json", tmp_path / "run", at_once)
        return read_concurrency(tmp_path / "run.json")

    return begin


def _train_a_step(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("{}")


def test_a_resumed_run_keeps_the_most(tmp_path, begin):
    assert read_concurrency(tmp_path / "run.json") is None
    assert begin(2) == 2
    _train_a_step(tmp_path)
    assert (begin(1), begin(3), begin(1)) == (2, 3, 3)


def test_a_run_that_begins_anew_forgets(begin):
    assert (begin(4), begin(1)) == (4, 1)


def test_a_run_that_began_without_a_record_has_none(tmp_path, begin):
    _train_a_step(tmp_path)
    assert begin(1) is None


@pytest.mark.parametrize("text", ["[2]", "{}", '{"runs_at_once": 0}', '{"runs_at_once": true}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(InputError, match="does not say how many runs"):
        read_concurrency(path)
