"""The study of shapes and steps: its declaration, arms, windows, order of runs, and contrasts."""

from __future__ import annotations

import argparse
import functools
import hashlib
import random
import shutil
import subprocess

import pytest
import torch

import kat
from kat.nn import rationals
from tests.examples.domains import rows_of, size

DIGEST = "1a99452dc5c34ab83f9b5f28c91367d0acae5c0384d0aaae0036f2e2a2cea98f"


@pytest.fixture
def study(example, tmp_path, monkeypatch):
    """The study with its files in a folder of the test."""
    pytest.importorskip("transformers")
    module = example("step_study")
    for name in ("ROWS", "BEST", "RUNS"):
        monkeypatch.setattr(module, name, tmp_path / name)
    return module


@pytest.fixture
def make(study):
    """Makes the model of an arm. At 0 the donor's function of layer l has the value l^2 / 10."""
    shared = {"form": "A", "denominator": [[0.1, 0, 0, 0]], "density": [1 / 400] * 400}
    curves = [{"numerator": [[layer**2 / 10, 1, 0, 0, 0, 0]]} for layer in range(6)]
    functions = [{"act2": shared | curve} for curve in curves]
    return functools.partial(study.make_llama, functions=functions)


@pytest.fixture
def rows(study):
    """Rows of the whole study, in the order of its runs; the best rate is 0.0028.

    With the seed s the error of fixed is (s - 60) % lower than the error of B.
    """
    made = {}
    while runs := study.missing(made):
        run = runs[0]
        place = {"relu2": 0, "fixed": 1, "grkan": 2}.get(run.arm, 3)
        test = run.seed * (1 - place * (run.seed - 60) / 100)
        made[run] = {"valid": place + abs(run.rate - 0.0028), "test": test}
    return made


def test_the_declaration_stands(study):
    assert hashlib.sha256(study.DECLARATION.read_bytes()).hexdigest() == DIGEST


def test_a_changed_declaration_is_refused_with_the_difference(study, tmp_path):
    path = tmp_path / "step.yaml"
    shutil.copy(study.DECLARATION, path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    with pytest.raises(SystemExit, match="not committed"):
        study.refuse_changes(path)
    subprocess.run([*git, "add", "step.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "Declared"], check=True)
    assert len(study.refuse_changes(path)) == 40
    path.write_text(path.read_text().replace("budget_hours: 24", "budget_hours: 25"))
    with pytest.raises(SystemExit, match=r"(?s)-budget_hours: 24.*\+budget_hours: 25"):
        study.refuse_changes(path)


def test_the_arms_have_as_many_parameters(study, make):
    sizes = [size(make(arm)) for arm in study.DECLARED["stages"][0]["arms"]]
    assert max(sizes) < 1.001 * min(sizes)
    assert len(rationals(make("donor_one"))) == 1


@pytest.mark.parametrize(("arm", "value"), [("fixed", 0.9), ("pair", 1.1)])
def test_a_fixed_function_is_the_mean_of_the_donors_curves(make, arm, value):
    mlp = make(arm).model.layers[3].mlp
    assert mlp.act2(torch.zeros(576))[0].item() == pytest.approx(value, abs=2e-3)
    assert not mlp.act2.weight_numerator.requires_grad
    assert mlp.fc2.weight.var().item() == pytest.approx(mlp.act2.gain() / 576, rel=0.04)


def test_functions_of_another_degree_are_refused(study):
    act = kat.GroupRational(degree=(3, 2))
    with pytest.raises(SystemExit, match="do not fit"):
        study.load(act, (torch.zeros(1, 6), torch.zeros(8, 4)))


def test_xielu_is_that_of_transformers(example):
    activations = pytest.importorskip("transformers.activations")
    x = torch.linspace(-5, 5, 101)
    other = activations.XIELUActivation(dtype=torch.float32)
    torch.testing.assert_close(example("layers").XIELU()(x), other(x))


def test_windows_are_new(study):
    found = study.new_windows(torch.arange(256 * 1100 + 50), 256)
    assert found.shape == (256, 257)
    assert (found[:, 0] % 256 == 128).all()
    starts = 256 * torch.linspace(0, 1099, 256).round().long()  # language.py's
    assert not torch.isin(found, starts[:, None] + torch.arange(257)).any()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("arm", ["swiglu", "grkan", "fixed"])
def test_the_second_map_has_a_rate_of_its_own(study, make, arm, optimizer):
    model = make(arm)
    trained = {p: name for name, p in model.named_parameters() if p.requires_grad}
    run = study.Run("s", "t", arm, 1, optimizer, 4, 0.002, 0.4)
    for each in study.make_optimizers(run, model):
        for group in each.param_groups:
            for p in group["params"]:
                second = trained.pop(p).endswith(("fc2.weight", "mlp.2.weight"))
                assert group["lr"] == pytest.approx(0.0008 if second else 0.002)
                assert group["lr"] * group["weight_decay"] in (0, pytest.approx(0.0002))
    assert not trained


def test_an_arm_tries_one_more_rate_at_an_edge_and_then_multipliers(rows):
    tried = [run[6:] for run in rows if (run.stage, run.arm) == ("4-tuning", "gelu")]
    assert tried == [(0.002, 1), (0.004, 1), (0.001, 1), (0.002, 0.63), (0.002, 1.6)]


def test_runs_are_in_blocks_with_arms_in_the_order_of_the_seed(study, rows):
    made, expected = list(rows), []
    for seed in range(61, 67):
        block = ["gelu", "relu2", "grkan", "fixed"]
        random.Random(seed).shuffle(block)
        expected += block
    assert [run.arm for run in made if run.stage == "3-test"] == expected
    for number, run in enumerate(made):
        assert study.donor_of(run) in (None, *made[:number])
    assert {run.seed % 100 for run in made[-16:]} == {66}


def test_no_test_error_is_printed_before_step_3_is_whole(study, rows, capsys):
    hidden = {"test": "hidden"}  # it is no number
    study.print_tables({run: row | hidden for run, row in rows.items() if run.seed != 66})
    printed = capsys.readouterr().out
    assert "missing: 3-test" in printed
    assert "hidden" not in printed
    five = {run: row for run, row in rows.items() if (run.stage, run.seed) != ("4-test", 66)}
    study.print_tables(five)
    printed = capsys.readouterr().out
    assert "missing: 4-test" in printed
    assert "Holm" in printed


def test_a_contrast_is_paired(study, rows):
    """Of -1 to -6 %: t(0.975, 5) = 2.5706, and the standard error is 0.7638."""
    found = study.contrast("3-test", "fixed", "best", rows)
    assert found[:3] == pytest.approx((-3.5, -5.4633, -1.5367), abs=1e-4)
    assert study.outcome(found) == "better"


@pytest.mark.parametrize(("seed", "where"), [(62, "inside"), (70, "outside")])
def test_one_seed_is_repeated_beside_the_published_interval(
    study, rows, monkeypatch, capsys, seed, where
):
    """The mean lies in -5.46 to -1.54 %, and one more seed in an interval sqrt(7) times as wide."""

    def row_of(run, made, options):
        assert study.donor_of(run) in (None, *made)
        study.checkpoint(run).touch()
        return {"test": 1 - (seed - 60) / 100 if run.arm == "fixed" else 1}

    monkeypatch.setattr(study, "row_of", row_of)
    study.repeat(seed, rows, None)
    printed = capsys.readouterr().out
    assert f"F minus B {60 - seed:+.2f} %, {where} the" in printed
    assert "-8.69 to +1.69 %" in printed
    assert ("published for this seed: -2.00 %" in printed) == (seed == 62)
    assert not list(study.RUNS.glob("*.ckpt"))
    with pytest.raises(SystemExit, match="3-test is not whole"):
        study.repeat(seed, dict(list(rows.items())[:60]), None)


@pytest.mark.parametrize(
    ("low", "expected"), [(-0.29, "equal"), (0.2, "worse"), (-0.35, "undecided")]
)
def test_outcomes(study, low, expected):
    assert study.outcome(study.Contrast(low + 0.1, low, low + 0.2, 0, 6)) == expected


def test_the_budget_counts_the_declared_estimates(study, rows):
    counted = {stage: [run for run in rows if run.stage == stage] for stage in ("3-test", "4-test")}
    assert study.hours(counted["3-test"]) * 3600 == pytest.approx(6 * 4 * 970)
    assert study.hours(counted["4-test"]) * 3600 == pytest.approx(6 * 4 * 252 * 1.25)


def test_step_3_waits_for_the_commit_of_b(study, rows):
    with pytest.raises(SystemExit, match="not committed"):
        study.refuse_unnamed(rows)
    assert "relu2" in study.BEST.read_text()


def test_a_run_writes_one_row_and_is_not_made_again(study, monkeypatch):
    stage = dict(study.DECLARED["stages"][0], task="docstrings", steps=2, arms=["gelu"])
    monkeypatch.setattr(study, "DECLARED", study.DECLARED | {"stages": [stage], "compile": False})
    monkeypatch.setattr(study.language, "VALID", 8)
    monkeypatch.setattr(
        study.language, "docstrings", lambda: [f"Returns {n}." * 400 for n in range(40)]
    )
    options = argparse.Namespace(docs=None)
    first = study.missing({})[0]
    with study.locked(study.name_of(first)):  # by another process, which makes it
        assert not study.make_first([first], {}, options)
    for _ in range(2):
        assert study.make_first([first], {}, options)
        [row] = rows_of(study.ROWS)
    assert (row["test"], row["windows"]) == ("", "")
    assert float(row["valid"]) > 0
