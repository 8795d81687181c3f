"""The study of fixed functions: its arms, averages, interval, and the declaration that stands."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

import kat
from kat.nn import group_functions, rationals

pytestmark = pytest.mark.skipif(
    not (find_spec("transformers") and find_spec("tokenizers")),
    reason="transformers and tokenizers, of the extra [domains], are not installed",
)


@pytest.fixture
def study(example, monkeypatch):
    """The study with donors whose layers have functions of their own."""
    module = example("shapes_study")
    density = np.exp(-np.square(np.linspace(-8, 8, 400)) / 2)
    layers = []
    for layer in range(6):
        own = {}
        for name in ("act1", "act2"):
            numerator = [[0.1 * layer, 1.0, 0.2, 0.0, 0.0, 0.0]]
            denominator = [[0.1, 0.01 * group, 0.0, 0.0] for group in range(8)]
            own[name] = {
                "form": "A", "numerator": numerator, "denominator": denominator,
                "density": (density / density.sum()).tolist(),
            }  # fmt: skip
        layers.append(own)
    monkeypatch.setattr(module, "learned", lambda: {"short": layers, "second": layers})
    return module


@pytest.mark.parametrize("arm", ["fixed", "warm", "act2", "initial"])
def test_an_arm_has_its_functions_and_the_weights_that_are_drawn_for_them(study, arm):
    torch.manual_seed(0)
    settings, model = study.DECLARED["arms"][arm], study.make_model(arm)
    for layer, block in enumerate(model.model.layers):
        acts = rationals(block.mlp)
        assert list(acts) == (["act2"] if arm == "act2" else ["act1", "act2"])
        act = acts["act2"]
        assert all(p.requires_grad == settings["learns"] for p in act.parameters())
        if arm != "initial":
            assert act.weight_numerator[0, 0].item() == pytest.approx(0.1 * layer)
        expected = (act.gain() / block.mlp.fc2.in_features) ** 0.5
        assert block.mlp.fc2.weight.std().item() == pytest.approx(expected, rel=0.02)


def test_an_average_is_of_curves(study):
    """F / 2 and its like have other coefficients than the mean of theirs."""
    x = torch.linspace(-2, 2, 41)
    for average, layers in (("layer", [3]), ("all", range(6))):
        curves = []
        for layer in layers:
            own = study.learned()["short"][layer]["act2"]
            a, b = torch.tensor(own["numerator"]), torch.tensor(own["denominator"])
            curves.append(group_functions(x, a, b, "A").mean(0))
        found = study.coefficients("short", 3, "act2", average)
        fitted = group_functions(x, *found, "A")[0]
        torch.testing.assert_close(fitted, torch.stack(curves).mean(0), atol=2e-3, rtol=0)


def test_functions_of_another_degree_are_refused(study):
    act = kat.GroupRational(degree=(3, 2))
    with pytest.raises(SystemExit, match="do not fit"):
        study.load(act, (torch.zeros(1, 6), torch.zeros(8, 4)))


def _rows(bits, noise):
    """Rows of six seeds; the bits of a window are those of the seed and some of the window."""
    rows = {}
    for seed, mean in enumerate(bits):
        nats = 1000 * (mean + noise)
        rows[str(seed)] = {"test": str(mean), "windows": " ".join(map(str, nats))}
    return rows


def test_the_interval_is_of_seeds_and_windows(study):
    rng = np.random.default_rng(0)
    bits, zero = rng.normal(1.5, 0.02, (2, 6)), np.zeros(256)
    seeds_alone = study.difference(_rows(bits[0], zero), _rows(bits[1], zero))
    interval = ttest_rel(*bits).confidence_interval()
    low, high = 100 * np.array(interval) / bits[1].mean()
    assert f"({low:+.2f} to {high:+.2f}, 6 seeds)" in seeds_alone
    noise = rng.normal(0, 0.1, 256)
    both = study.difference(_rows(bits[0], noise - noise.mean()), _rows(bits[1], zero))
    assert both.split()[0] == seeds_alone.split()[0]
    width = [float(text.split("to ")[1].split(",")[0]) for text in (seeds_alone, both)]
    assert width[1] > width[0]


def test_a_changed_declaration_is_refused_with_the_difference(study, tmp_path):
    path = tmp_path / "shapes.yaml"
    shutil.copy(study.DECLARATION, path)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    with pytest.raises(SystemExit, match="not committed"):
        study.refuse_changes(path)
    subprocess.run([*git, "add", "shapes.yaml"], check=True)
    subprocess.run([*git, "commit", "-qm", "Declared"], check=True)
    assert len(study.refuse_changes(path)) == 40
    path.write_text(path.read_text().replace("rate: 0.002", "rate: 0.003"))
    with pytest.raises(SystemExit, match=r"(?s)-rate: 0.002 .*\+rate: 0.003"):
        study.refuse_changes(path)
