"""Every tutorial has a place on the site, every domain a section of its page; one tutorial runs."""

from __future__ import annotations

import re

import matplotlib
import pytest
import timm
import torch

from tests.docs.public import ROOT

yaml = pytest.importorskip("yaml", reason="pyyaml, of the extra [cli], is not installed")
TUTORIALS = ROOT / "docs" / "tutorials"
DOMAINS = yaml.safe_load((ROOT / "examples" / "domains" / "plan.yaml").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in TUTORIALS.glob("*.py")))
def test_a_tutorial_is_listed_and_in_the_navigation(name):
    assert f"](tutorials/{name}.py)" in (ROOT / "docs" / "getting-started.md").read_text()
    assert f"- tutorials/{name}.md\n" in (ROOT / "mkdocs.yml").read_text()


def test_the_page_of_the_domains_has_a_section_for_each_and_leads_to_the_notebooks():
    page = (ROOT / "docs" / "domains.md").read_text()
    for name in DOMAINS:
        (section,) = (each for each in page.split("\n## ") if f"\n\n`{name}.py`: " in each)
        notebook = TUTORIALS / f"domain-{name}.py"
        if notebook.exists():
            assert f"(tutorials/{notebook.name})" in section
            assert f"(../domains.md#{name})" in notebook.read_text()


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
