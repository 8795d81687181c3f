"""Runs of the domains: killed, diverged, tuned, paired by seed; their options; their errors."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.examples.domains import FOLDER, rows_of, train


def test_a_run_that_was_killed_ends_with_the_same_bits(example, tmp_path):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    ends = []
    for stop_at in (None, 27):
        torch.manual_seed(0)
        layer = example("layers").mlp("grkan", 16, 24)
        path = tmp_path / f"{stop_at}.ckpt"
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                train(example, layer, x, path, 40, stop_at)
            torch.manual_seed(0)
            layer = example("layers").mlp("grkan", 16, 24)
        row = train(example, layer, x, path, 40)
        ends.append((row["valid"], row["curve"], [p.tolist() for p in layer.parameters()]))
        assert row["calls"] == (40 if stop_at is None else 40 - 26)
    assert ends[0] == ends[1]
    assert ends[0][0] == min(valid for _, valid in ends[0][1])


def test_a_loss_that_is_not_finite_ends_the_run(example, tmp_path):
    layer = example("layers").mlp("gelu", 16, 24)
    x = torch.full((16, 16), torch.inf)
    row = train(example, layer, x, tmp_path / "x.ckpt", 40)
    assert (row["valid"], row["calls"]) == (torch.inf, 2)


def test_a_run_that_diverges_keeps_its_best_weights_and_is_not_chosen(example, tmp_path):
    torch.manual_seed(0)
    layer, broken = example("layers").mlp("gelu", 16, 24), []
    trial = example("runner").Trial(
        "t", "a", 1e-2, 1, 40, torch.device("cpu"), tmp_path / "x.ckpt"
    )  # fmt: skip
    x = torch.randn(64, 16)

    def loss():
        factor = torch.nan if broken else 1.0
        return (layer(x) - x.sin()).square().mean() * factor

    def validate():
        broken.extend(p.detach().clone() for p in layer.parameters())
        return 0.5

    row = example("training").train(trial, layer, loss, validate)
    assert (row["valid"], row["curve"]) == (torch.inf, [(2, 0.5), (4, torch.inf)])
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), broken, strict=True))


def test_arms_that_try_more_rates_than_others_are_refused(example):
    with pytest.raises(ValueError, match="the same number of learning rates"):
        example("runner").Domain("", "x", ["t"], {"gelu": (1e-3,), "grkan": (1e-3, 1e-2)}, 1)


def test_the_runner_tunes_pairs_seeds_and_ranks(example, tmp_path, capsys):
    errors = {"gelu": 2.0, "grkan": 1.0}
    rates = dict.fromkeys(errors, (0.1, 0.2, 0.3))
    domain = example("runner").Domain("", "x", ["s", "t"], rates, 5)
    made = []

    def run(trial):
        made.append(trial)
        off = errors[trial.arm] + abs(trial.rate - 0.2)
        return nn.Linear(2, 3), {"valid": off, "test": off + trial.seed, "seconds": 0.0}

    options = domain.parser().parse_args(["--csv", str(tmp_path / "x.csv"), "--seed", "1", "2"])
    domain.main(options, run)
    assert len(made) == 2 * 2 * (3 + 2)
    assert {trial.rate for trial in made if trial.seed} == {0.2}
    printed = capsys.readouterr().out
    assert len(re.findall(r"-1\.0000 ± 0\.0000 +gelu", printed)) == 2  # a task each
    assert [line.split() for line in printed.splitlines()[-2:]] == [
        ["gelu", "2.00", "±", "0.00"], ["grkan", "1.00", "±", "0.00"],
    ]  # fmt: skip
    rows = rows_of(tmp_path / "x.csv")
    assert [row["test"] for row in rows if row["for"] == "tune"] == [""] * 12
    assert {row["parameters"] for row in rows} == {"9"}
    domain.main(options, run)
    assert len(made) == len(rows) == 20


def test_ctrl_c_no_rows_and_a_csv_that_cannot_be_written_are_one_line(example, tmp_path, capsys):
    domain = example("runner").Domain("", "x", ["s"], {"gelu": (0.1,)}, 5)

    def run(trial):
        raise KeyboardInterrupt

    def main(path, *more):
        domain.main(domain.parser().parse_args(["--csv", str(path), *more]), run)

    with pytest.raises(SystemExit, match="130"):
        main(tmp_path / "new" / "x.csv")
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
    main(tmp_path / "x.csv", "--table")
    assert capsys.readouterr().out == f"\ns: no test after 5 steps in {tmp_path / 'x.csv'}\n"
    with pytest.raises(SystemExit, match="no file that can be written"):
        main(tmp_path)


@pytest.mark.parametrize(
    ("option", "problem"), [("--steps=ten", "whole number"), ("--device=foo", "cannot be used")]
)
def test_options_that_are_wrong_are_named(example, capsys, option, problem):
    with pytest.raises(SystemExit, match="2"):
        example("runner").Domain("", "x", ["s"], {"gelu": (0.1,)}, 5).parser().parse_args([option])
    assert problem in capsys.readouterr().err


@pytest.mark.slow
def test_a_package_that_is_missing_is_named_in_one_line(tmp_path):
    (tmp_path / "rtdl_revisiting_models.py").write_text(
        "raise ModuleNotFoundError(name='rtdl_revisiting_models')"
    )
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(FOLDER)!r}]; import tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "the package rtdl_revisiting_models is missing:"
        ' pip install "kolmogorov-arnold-transformer[domains]"\n'
    )
