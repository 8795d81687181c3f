"""The decoder: it learns, resumes to the same bits, generates; coefficients are apart in Muon."""

from __future__ import annotations

import random
import re
import sys

import pytest
import torch

from examples import decoder
from kat.nn import rationals
from tests.equality import assert_equal

SMALL = ["--width", "32", "--depth", "1", "--context", "32", "--steps", "200", "--lr", "1e-2"]


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.release)])
def test_a_killed_run_resumes_to_the_same_bits_learns_and_generates(
    optimizer, tmp_path, monkeypatch, capsys
):
    words = random.Random(0).choices(["naïve", "cat", "sat", "on", "the", "mat"], k=30_000)
    (tmp_path / "text.txt").write_text(" ".join(words), encoding="utf-8")

    def train(name):
        options = [*SMALL, "--optimizer", optimizer, "--out", str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", ["", str(tmp_path), *options, "--prompt", "the c"])
        decoder.main()
        return torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)

    def killed(run, text, step=decoder.Run.train_step):
        if run.step == 130:
            raise KeyboardInterrupt
        return step(run, text)

    _, steps, (model, *optimizers) = train("whole")
    shown, _, generated = capsys.readouterr().out.partition("the c")
    first, last = (float(bits) for bits in re.findall(r": ([\d.]+) bits", shown))
    assert first > last
    assert last < 2
    assert len(generated.encode()) >= 300
    with monkeypatch.context() as patch:
        patch.setattr(decoder.Run, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train("killed")
    _, again, (resumed, *states) = train("killed")
    assert steps == again == 200
    assert_equal(resumed, model)
    assert_equal([one["state"] for one in states], [one["state"] for one in optimizers])


def test_muon_has_the_matrices_and_no_coefficients():
    run = decoder.Run(decoder.Config("muon", groups=4, width=32, depth=2))
    muon, adamw = ({p for g in each.param_groups for p in g["params"]} for each in run.optimizers)
    coefficients = {p for act in rationals(run.model).values() for p in act.parameters()}
    assert len(muon) == 2 * 4
    assert len(coefficients) == 2 * 4
    assert coefficients < adamw == set(run.model.parameters()) - muon
