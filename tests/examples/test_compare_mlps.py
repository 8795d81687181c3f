"""The comparison of MLPs: equal sizes, parts that share nothing, and a whole run."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="the extra [examples] is not installed")
SCRIPT = Path(__file__).parents[2] / "examples" / "compare_mlps.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def text(tmp_path):
    """500 kB, each window of which is found once."""
    (tmp_path / "a.txt").write_text("".join(f"{number:09d}\n" for number in range(50_000)))
    return tmp_path


def _task(script, text=None):
    options = argparse.Namespace(images="digits", size=None, text=text and [text])
    return script["Text" if text else "Images"](options)


@pytest.mark.parametrize("kind_of_data", ["images", "text"])
def test_models_have_as_many_parameters_and_begin_alike(script, kind_of_data, text):
    task = _task(script, text if kind_of_data == "text" else None)
    sizes, embeddings = [], []
    for mlp in script["MLPS"]:
        torch.manual_seed(0)
        model = task.model(mlp, 96, 2)
        sizes.append(sum(p.numel() for p in model.parameters()))
        embeddings.append(next(model.parameters()).detach())
    assert max(sizes) < 1.01 * min(sizes)
    assert all(torch.equal(each, embeddings[0]) for each in embeddings)


@pytest.mark.parametrize("kind_of_data", ["images", "text"])
def test_no_part_has_an_example_of_another(script, kind_of_data, text):
    task = _task(script, text if kind_of_data == "text" else None)
    parts = [{bytes(x.contiguous().numpy()) for x in part.x} for part in
             (task.train, task.valid, task.test)]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert min(map(len, parts)) > 40


def test_a_run_tunes_and_tests_each_kind(script, monkeypatch, capsys):
    words = ["--images", "digits", "--mlps", "gelu", "grkan", "--rates", "1e-5", "4e-3"]
    few = ["--seeds", "1", "2", "--steps", "30", "--depth", "1", "--width", "32"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, *few])
    script["main"]()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 * (2 + 2) + 3
    for line, name in zip(printed[-2:], ("gelu", "grkan"), strict=True):
        assert line.split()[:2] == [name, "0.004"]


def test_the_error_of_a_perfect_model_is_zero(script, text):
    """Every byte but the last of each number follows from the one before it here."""
    images, bytes_ = _task(script), _task(script, text)
    labels = iter(images.test.y.split(64))
    exact = torch.nn.functional.one_hot
    assert images.measure(lambda x: exact(next(labels), 10), images.test) == 0
    few = bytes_.test._replace(x=bytes_.test.x[:64], y=bytes_.test.y[:64])
    sure = lambda x: 100.0 * exact(few.y.long(), 256).transpose(1, 2).float()  # noqa: E731
    assert bytes_.measure(sure, few) < 1e-6
    assert bytes_.measure(lambda x: torch.zeros(len(x), 256, 256), few) == pytest.approx(8)
