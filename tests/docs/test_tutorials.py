"""Every tutorial has a place on the site; two tutorials run."""

from __future__ import annotations

import re

import matplotlib
import pytest
import timm
import torch

import kat
from tests.docs.public import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_is_listed_and_in_the_navigation(name):
    assert f"](tutorials/{name}.py)" in (ROOT / "docs" / "getting-started.md").read_text()
    assert f"- tutorials/{name}.md\n" in (ROOT / "mkdocs.yml").read_text()


def test_the_network_of_physics_solves_the_equation_and_stays_smooth(monkeypatch, tmp_path):
    """The exact solution has no residual, and no odd coefficient moves."""
    jupytext = pytest.importorskip("jupytext", reason="the docs extra is not installed")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = {"__name__": "tutorial"}
    for cell in jupytext.read(TUTORIALS / "domain-physics.py").cells:
        if cell.cell_type == "code":
            exec(re.sub(r"steps = \d+", "steps = 40", cell.source), names)
    assert names["error"].norm() < 0.3 * names["solution"](names["grid"]).norm()
    for act in kat.nn.rationals(names["net"]).values():
        assert not act.weight_denominator[:, ::2].any()
    points = torch.rand(32, 2).double()
    names["value"] = names["solution"]
    assert names["residual"](points).abs().max() < 1e-12


@pytest.fixture
def training_loop(monkeypatch, tmp_path):
    """The cells of the tutorial of the training loop, and what they define after two steps each.

    A warning of coefficients with weight decay is an error (pyproject.toml).
    """
    for package in ("sklearn", "transformers", "accelerate"):
        pytest.importorskip(package)
    jupytext = pytest.importorskip("jupytext", reason="the docs extra is not installed")
    cells = jupytext.read(TUTORIALS / "own-training-loop.py").cells
    monkeypatch.chdir(tmp_path)  # and back at the end: the tutorial leaves this folder
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    matplotlib.use("Agg")
    names = {"__name__": "tutorial"}
    for cell in cells:
        if cell.cell_type == "code":
            exec(re.sub(r"steps=\d+", "steps=2", cell.source), names)
    return cells, names


def assert_loaded(file, model):
    again = timm.create_model(
        "kat_micro_patch7_28", num_classes=10, in_chans=1, checkpoint_path=file
    )
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(again.eval()(images), model.eval()(images))


@pytest.mark.release
def test_timm_loads_what_trainer_saves(training_loop):
    _, names = training_loop
    assert_loaded("with_trainer/model.safetensors", names["model"])


@pytest.mark.slow
def test_timm_loads_what_lightning_saves(training_loop):
    pytest.importorskip("lightning", reason="lightning is not installed")
    cells, names = training_loop
    (code,) = re.findall(
        r"```python\n(.*?)```", "\n".join(cell.source for cell in cells), re.DOTALL
    )
    exec(code, names)
    assert_loaded("with_lightning.pth", names["finder"].model)
