"""The study of shapes and steps: its declaration, arms, windows, order of runs, and contrasts."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t

from kat.nn import group_functions, rationals
from tests.examples.domains import rows_of, size

pytestmark = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("tokenizers")),
    reason="transformers and tokenizers, of the extra [domains], are not installed",
)
DIGEST = "1a99452dc5c34ab83f9b5f28c91367d0acae5c0384d0aaae0036f2e2a2cea98f"


@pytest.fixture
def study(example, tmp_path, monkeypatch):
    """The study with its files in a folder of the test."""
    module = example("step_study")
    monkeypatch.setattr(module, "ROWS", tmp_path / "step.csv")
    monkeypatch.setattr(module, "BEST", tmp_path / "step-best.json")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    return module


@pytest.fixture(scope="module")
def functions():
    """What a donor learned: the function of layer l has the value l / 10 at 0."""
    density = np.exp(-np.square(np.linspace(-8, 8, 400)) / 2)
    layers = []
    for layer in range(6):
        own = {"form": "A", "numerator": [[0.1 * layer, 1.0, 0.2, 0.0, 0.0, 0.0]]}
        own["denominator"] = [[0.1, 0.01 * group, 0.0, 0.0] for group in range(8)]
        layers.append({"act2": own | {"density": (density / density.sum()).tolist()}})
    return layers


def _row(study, run):
    """A row of made-up errors: the best rate is 0.0028, the best multiplier 1; relu2 is B."""
    order = ["fixed", "grkan", "relu2", "xielu", "gelu", "swiglu", "silu"]
    arm = order.index(run.arm) if run.arm in order else 0
    away = abs(np.log(run.rate / 0.0028)) + abs(np.log(run.multiplier))
    noise = random.Random(str(run)).random() / 1000
    test = "" if "tuning" in run.stage or run.stage == "donor" else 1 + arm / 10 + noise
    return {"valid": 1 + arm / 10 + away / 100, "test": test, "cpu_seconds": 1}


def _all_rows(study):
    """The rows of the whole study, in the order in which they are made."""
    rows = {}
    while runs := study.missing(rows):
        rows[runs[0]] = _row(study, runs[0])
    return rows


def test_the_declaration_stands(study):
    assert hashlib.sha256(study.DECLARATION.read_bytes()).hexdigest() == DIGEST


def test_the_arms_have_as_many_parameters(study, functions):
    sizes, trained = {}, {}
    for arm in study.DECLARED["stages"][0]["arms"]:
        model = study.language.make_model("gelu")
        study.set_mlps(model.model.layers, 192, 576, arm, functions)
        sizes[arm] = size(model)
        trained[arm] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert max(sizes.values()) < 1.001 * min(sizes.values())
    assert trained["fixed"] == sizes["gelu"]


@pytest.mark.parametrize(("arm", "layers"), [("fixed", [3]), ("pair", [1, 2, 3, 4, 5])])
def test_a_fixed_function_is_the_mean_of_the_donors_curves(study, functions, arm, layers):
    model = study.language.make_model("gelu")
    study.set_mlps(model.model.layers, 192, 576, arm, functions)
    act = model.model.layers[3].mlp.act2
    assert not any(p.requires_grad for p in act.parameters())
    x, curves = torch.linspace(-2, 2, 41), []
    for layer in layers:
        own = functions[layer]["act2"]
        a, b = torch.tensor(own["numerator"]), torch.tensor(own["denominator"])
        curves.append(group_functions(x, a, b, "A").mean(0))
    found = act.functions(x)[0].double()
    torch.testing.assert_close(found, torch.stack(curves).mean(0), atol=2e-3, rtol=0)
    weight = model.model.layers[3].mlp.fc2.weight
    assert weight.std().item() == pytest.approx((act.gain() / 576) ** 0.5, rel=0.02)
    assert len(rationals(model)) == 6


def test_the_blocks_of_a_donor_share_its_one_function(study):
    model = study.language.make_model("gelu")
    study.set_mlps(model.model.layers, 192, 576, "donor_one")
    assert len({block.mlp.act2 for block in model.model.layers}) == 1
    assert len(rationals(model)) == 1


def test_activations_are_those_of_transformers(example):
    from transformers.activations import ReLUSquaredActivation, XIELUActivation

    layers, x = example("layers"), torch.linspace(-5, 5, 101)
    own, other = layers.XIELU(), XIELUActivation(dtype=torch.float32)
    torch.testing.assert_close(own(x), other(x))
    torch.testing.assert_close(layers.SquaredReLU()(x), ReLUSquaredActivation()(x))
    assert {p.numel() for p in own.parameters()} == {1}


def test_windows_are_new(study):
    places = torch.arange(256 * 1100 + 50)
    found = study.new_windows(places, 256)
    assert found.shape == (256, 257)
    assert set((found[:, 0] % 256).tolist()) == {128}
    starts = 256 * torch.linspace(0, 1099, 256).round().long()  # language.py's
    seen = (starts[:, None] + torch.arange(257)).flatten().tolist()
    assert not set(seen) & set(found.flatten().tolist())


def test_the_second_map_has_a_rate_of_its_own(study, functions):
    for arm in ("gelu", "swiglu", "grkan", "fixed"):
        model = study.language.make_model("gelu")
        study.set_mlps(model.model.layers, 192, 576, arm, functions)
        second = {
            id(p) for n, p in model.named_parameters() if n.endswith(("fc2.weight", "mlp.2.weight"))
        }
        for name in ("adamw", "muon"):
            run = study.Run("s", "t", arm, 1, name, 4, 0.002, 0.4)
            optimizers = study.make_optimizers(run, model)
            groups = [group for each in optimizers for group in each.param_groups]
            for group in groups:
                own = {id(p) for p in group["params"]}
                assert own <= second or not own & second
                rate = 0.0008 if own <= second else 0.002
                assert group["lr"] == pytest.approx(rate)
                assert group["lr"] * group["weight_decay"] in (0, pytest.approx(0.0002))
            count = sum(len(group["params"]) for group in groups)
            assert count == sum(p.requires_grad for p in model.parameters())
            if name == "muon":
                shapes = {tuple(p.shape) for g in optimizers[0].param_groups for p in g["params"]}
                assert all(min(shape) >= 192 and max(shape) <= 576 for shape in shapes)


def test_an_arm_tries_one_more_rate_at_an_edge_and_then_multipliers(study):
    rows = _all_rows(study)
    tried = [(r.rate, r.multiplier) for r in rows if r.stage == "1-tuning" and r.arm == "silu"]
    assert tried[:4] == [(0.0014, 1), (0.002, 1), (0.0028, 1), (0.004, 1)]
    assert tried[4:] == [(0.0028, 0.4), (0.0028, 0.63), (0.0028, 1.6)]
    for arm in ("gelu", "relu2", "grkan", "fixed"):
        assert sum((r.stage, r.arm) == ("4-tuning", arm) for r in rows) == 5


def test_runs_are_in_blocks_with_arms_in_the_order_of_the_seed(study):
    rows = _all_rows(study)
    assert study.others(rows) == ["relu2", "xielu"]
    assert study.best_arm(rows) == "relu2"
    runs = [run for run in rows if run.stage == "3-test"]
    assert [run.seed for run in runs] == [seed for seed in range(61, 67) for _ in range(4)]
    orders = [tuple(run.arm for run in runs[i : i + 4]) for i in range(0, 24, 4)]
    assert {frozenset(order) for order in orders} == {
        frozenset(["gelu", "relu2", "grkan", "fixed"])
    }
    assert len(set(orders)) > 2
    made = list(rows)
    for number, run in enumerate(made):
        donor = study.donor_of(run)
        assert donor is None or donor in made[:number]
        if run.arm == "fixed" and run.task != "fashion-10000":
            assert donor[1:4] == ("python3-doc", "donor", run.seed + 100)
    sixth = [run.stage for run in made if run.seed == 66 and run.stage != "3-test"]
    assert list(dict.fromkeys(sixth)) == ["4-test", "5-text", "5-functions", "5-images"]
    assert next(run.stage for run in made[-len(sixth) :] if run.stage != "donor") == "4-test"


def test_no_test_error_is_printed_before_step_3_is_whole(study, capsys):
    rows = _all_rows(study)
    early = {run: rows[run] for run in list(rows)[: list(rows).index(_last(rows, "3-test"))]}
    study.print_tables(early)
    printed = capsys.readouterr().out
    assert "missing: 3-test" in printed
    tests = [f"{row['test']:.4f}" for row in early.values() if row["test"] != ""]
    assert tests
    assert not any(text in printed for text in tests)
    assert "%" not in printed
    study.print_tables(rows)
    assert "F minus B" in capsys.readouterr().out


def _last(rows, stage):
    return [run for run in rows if run.stage == stage][-1]


def test_a_contrast_is_paired(study):
    rows = _all_rows(study)
    tests = [
        {r.seed: rows[r]["test"] for r in rows if r[:3] == ("3-test", "python3-doc", arm)}
        for arm in ("fixed", "relu2")
    ]
    percent = np.array([100 * (tests[0][seed] / tests[1][seed] - 1) for seed in range(61, 67)])
    reach = t.ppf(0.975, 5) * percent.std(ddof=1) / 6**0.5
    found = study.contrast("3-test", "fixed", "best", rows)
    assert found[:3] == pytest.approx(
        (percent.mean(), percent.mean() - reach, percent.mean() + reach)
    )
    assert study.outcome(found) == "better"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((-0.9, -0.5, -0.1), "better"),
        ((-0.29, -0.2, -0.1), "equal"),
        ((-0.1, 0.1, 0.29), "equal"),
        ((0.1, 0.3, 0.5), "worse"),
        ((-0.4, -0.2, -0.1), "undecided"),
        ((-1.0, -0.5, 0.1), "undecided"),
    ],
)
def test_outcomes(study, interval, expected):
    low, mean, high = interval
    assert study.outcome(study.Contrast(mean, low, high, 0.0, 6)) == expected
    assert expected in study.DECLARED["outcomes"]


def test_step_3_waits_for_the_commit_of_b(study):
    rows = _all_rows(study)
    with pytest.raises(SystemExit, match="not committed"):
        study.refuse_unnamed(rows)
    assert json.loads(study.BEST.read_text())["best"] == "relu2"


def test_a_run_writes_one_row_and_is_not_made_again(study, monkeypatch):
    stage = dict(study.DECLARED["stages"][0], task="docstrings", steps=2, arms=["gelu"])
    stage |= {"rates": [0.0014, 0.002], "multipliers": []}
    monkeypatch.setitem(study.DECLARED, "stages", [stage])
    monkeypatch.setitem(study.DECLARED, "compile", False)
    monkeypatch.setattr(study.language, "VALID", 8)
    options = argparse.Namespace(docs=Path(), data="", minutes=9, pause=Path())
    first = study.missing({})[0]
    assert study.make_first([first], {}, options)
    [row] = rows_of(study.ROWS)
    assert (row["stage"], row["rate"], row["test"], row["windows"]) == (
        "1-tuning",
        "0.0014",
        "",
        "",
    )
    assert float(row["valid"]) > 0
    assert float(row["cpu_seconds"]) > 0
    assert study.missing(study.read_rows())[0].rate == 0.002
    before = study.ROWS.read_bytes()
    assert study.make_first([first], {}, options)
    assert study.ROWS.read_bytes() == before
    assert not list(study.RUNS.glob("*.ckpt"))


def test_a_run_that_another_process_makes_is_left_to_it(study):
    run = study.missing({})[1]
    with study.locked(study.name_of(run)):
        assert not study.make_first([run], {}, argparse.Namespace())
