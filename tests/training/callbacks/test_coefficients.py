"""The record of the coefficients: its steps and its values."""

from __future__ import annotations

import csv

import pytest
import torch
from safetensors.torch import load_file

from kat.models import load_model
from kat.nn import GroupRational, read_coefficient_history
from kat.training.callbacks.coefficients import RECORDED_NUMBERS, SNAPSHOTS, snapshot_interval
from tests.cli.commands import QUICK, run
from tests.equality import assert_equal

COMMON = ("train", "--config", "digits", *QUICK, "--optim.warmup_epochs", 0)


@pytest.mark.parametrize("steps", [1, 2, 98, 99, 100, 101, 12345])
@pytest.mark.parametrize("numbers", [0, 38, 50_000, 10 * RECORDED_NUMBERS])
def test_records_are_few_and_evenly_spread(steps, numbers):
    interval = snapshot_interval(steps, numbers)
    recorded = [*range(0, steps, interval), steps]
    assert 2 <= len(recorded) <= max(2, SNAPSHOTS)
    assert len(recorded) == 2 or len(recorded) * numbers <= RECORDED_NUMBERS
    if numbers == 38:
        assert len(recorded) >= min(steps + 1, SNAPSHOTS // 2)


@pytest.mark.slow
def test_a_run_records_its_rationals_from_the_start_to_the_end(tmp_path):
    out = tmp_path / "run"
    assert run(*COMMON, "--epochs", 2, "--out", out) == 0
    history = read_coefficient_history(out / "coefficients.csv")
    model, _ = load_model(out)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, GroupRational)}
    assert list(history) == list(layers)
    last = torch.load(out / "last.ckpt", weights_only=True)["state_dict"]
    for name, layer in layers.items():
        found = history[name]
        assert found.steps.tolist() == [0, 1, 2, 3, 4]
        for part in ("numerator", "denominator"):
            values = getattr(found, part)
            assert torch.equal(values[-1], last[f"{name}.weight_{part}"])
        layer.reset_parameters()
        assert torch.equal(found.numerator[0], layer.weight_numerator)
        assert (found.numerator.diff(dim=0) != 0).any(-1).all()


@pytest.mark.slow
def test_a_run_that_a_limit_stops_continues_its_record(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*COMMON, "--epochs", 60, "--max_steps", 9, "--out", whole) == 0
    assert run(*COMMON, "--epochs", 60, "--max_steps", 3, "--out", parts) == 0
    steps = [int(row["step"]) for row in csv.DictReader((parts / "coefficients.csv").open())]
    assert sorted(set(steps)) == [0, 2, 3]  # 120 steps: every second, and where it stopped
    assert run("train", "--out", parts, "--resume", "true", "--max_steps", 9) == 0
    assert (parts / "coefficients.csv").read_bytes() == (whole / "coefficients.csv").read_bytes()
    weights = [load_file(out / "model.safetensors") for out in (whole, parts)]
    assert_equal(weights[0], weights[1])
