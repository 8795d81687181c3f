"""The example of series: equal arms, what may see which rows, the errors."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("statsmodels")),
    reason="transformers and statsmodels, of the extra [domains], are not installed",
)


@pytest.fixture
def series(example):
    return example("series")


@pytest.fixture
def small(series, monkeypatch):
    """A set of 2 channels and 3 classes, in place of those of aeon; gives its test split."""
    generator = np.random.default_rng(0)
    names = np.array(["a", "b", "c"])

    def made(count, lengths):
        y = names[np.arange(count) % 3]
        x = [generator.normal(i % 3, 1, (2, lengths[i % len(lengths)])) for i in range(count)]
        return x, y

    splits = {"train": made(30, (40, 52, 60)), "test": made(24, (45, 70))}
    monkeypatch.setattr(series, "read_collection", lambda name, split: splits[split])
    return splits


def _trial(example, task, arm, folder, rate=1e-3, steps=6):
    torch.manual_seed(0)
    path = folder / "x.ckpt"
    path.unlink(missing_ok=True)
    return example("runner").Trial(task, arm, rate, 0, steps, torch.device("cpu"), path)


@pytest.mark.parametrize("classes", [7, None])
def test_arms_have_as_many_parameters(series, classes):
    rows = series.Split(torch.randn(4, 3, 104), torch.zeros(4))
    data = series.Data(rows, rows, rows, classes)
    models = [series.make_model(arm, data) for arm in series.ARMS]
    sizes = [sum(p.numel() for p in model.parameters()) for model in models]
    assert len(sizes) == 5
    assert max(sizes) < 1.02 * min(sizes)
    for model in models:
        assert series.forward(model.eval(), rows.series).shape == (4, classes or series.HORIZON)


def test_the_seed_draws_what_validates_and_the_longest_training_series_the_length(series, small):
    data, again, other = (series.collection("small", seed) for seed in (0, 0, 1))
    assert torch.equal(data.valid.series, again.valid.series)
    assert not torch.equal(data.valid.series, other.valid.series)
    assert torch.equal(data.test.target, other.test.target)
    assert data.valid.target.bincount().tolist() == [2, 2, 2]
    assert data.test.target.tolist() == [0, 1, 2] * 8
    assert {rows.series.shape[2] for rows in (data.train, data.valid, data.test)} == {60}
    line = series.resample([np.linspace(0, 1, 7)[None], np.linspace(0, 1, 60)[None]], 25)
    torch.testing.assert_close(line, torch.linspace(0, 1, 25).expand(2, 1, 25))


def test_rows_are_standardized_by_the_training_rows(series, small):
    before = series.collection("small", 0)
    x, _ = small["train"]
    shapes = [
        part[:, 0] - part[:, 0].mean(1, keepdim=True)
        for part in (before.valid.series, series.resample(x, 60))
    ]
    own, others = (shape / shape.norm(dim=1, keepdim=True) for shape in shapes)
    held = (own @ others.T).argmax(1).tolist()  # found by the shape of the first channel in time
    assert len(set(held)) == 6
    rows = series.resample([x[i] for i in range(30) if i not in held], 60).transpose(0, 1)
    means, deviations = rows.flatten(1).mean(1), rows.flatten(1).std(1)
    whole = series.resample([x[i] for i in range(30) if i not in held and i % 3 == 2], 60)
    level = before.train.series[before.train.target == 2].mean((0, 2))
    torch.testing.assert_close(level, ((whole.mean((0, 2)) - means) / deviations).float())
    for i in held:
        x[i] = 5 * x[i] + 3
    small["test"] = ([7 * each for each in small["test"][0]], small["test"][1])
    after = series.collection("small", 0)
    assert torch.equal(after.train.series, before.train.series)
    assert not torch.equal(after.valid.series, before.valid.series)
    assert not torch.equal(after.test.series, before.test.series)


def test_weeks_are_split_by_time_and_standardized_by_those_of_training(series, monkeypatch):
    weeks = series.read_weeks()
    assert len(weeks) == 2284
    assert np.isfinite(weeks).all()
    data = series.forecasts()
    mean, deviation = weeks[:1598].mean(), weeks[:1598].std(ddof=1)
    parts = (data.train, 104, 1598), (data.valid, 1598, 1827), (data.test, 1827, 2284)
    for rows, first, last in parts:
        assert len(rows.target) == last - first - 51
        targets = [weeks[i : i + 52] for i in range(first, last - 51)]
        expected = (np.stack(targets) - mean) / deviation
        np.testing.assert_allclose(rows.target, expected, atol=1e-3)
        contexts = [weeks[i - 104 : i] for i in range(first, last - 51)]
        np.testing.assert_allclose(
            rows.series[:, 0], (np.stack(contexts) - mean) / deviation, atol=1e-3
        )
    later = weeks.copy()
    later[1598:] *= 2
    monkeypatch.setattr(series, "read_weeks", lambda: later)
    after = series.forecasts()
    assert torch.equal(after.train.target, data.train.target)
    assert not torch.equal(after.valid.target, data.valid.target)


def test_the_error_of_a_forecast_is_over_that_of_the_seasonal_naive_one(series):
    data = series.forecasts()
    rows = series.Split(data.test.series[::40], data.test.target[::40])
    output = rows.target + 0.1 * torch.randn(rows.target.shape)
    own = naive = 0.0
    for window, truth, forecast in zip(rows.series[:, 0], rows.target, output, strict=True):
        known = [*window.tolist(), *truth.tolist()]
        for week in range(52):
            own += (known[104 + week] - forecast[week].item()) ** 2
            naive += (known[104 + week] - known[104 + week - 52]) ** 2
    expected = pytest.approx(math.sqrt(own / naive), rel=1e-4)
    assert series.measure(output, rows) == (expected, expected)
    assert series.measure(rows.series[:, 0, 52:], rows) == (1.0, 1.0)


def test_the_error_of_classes_is_their_share_and_the_brier_score_validates(series):
    rows = series.Split(torch.zeros(3, 1, 8), torch.tensor([0, 2, 1]))
    output = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.2, 0.3], [0.0, 1.0, 0.0]])
    brier = ((0.04 + 0.01 + 0.01) + (0.25 + 0.04 + 0.49) + 0) / 3
    assert series.measure(output, rows) == (pytest.approx(brier, abs=5e-4), pytest.approx(1 / 3))
    sure = torch.tensor([[0.99, 0.01, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert series.measure(sure, rows)[0] == 0  # 0.0002 / 3 is no reason to prefer other weights


def test_the_test_rows_choose_nothing(example, series, small, tmp_path):
    model, row = series.run(_trial(example, "GunPoint", "grkan", tmp_path))
    x, y = small["test"]
    small["test"] = ([-each for each in x], np.roll(y, 1))
    changed, other = series.run(_trial(example, "GunPoint", "grkan", tmp_path))
    assert row["valid"] == other["valid"]
    pairs = zip(model.state_dict().values(), changed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
