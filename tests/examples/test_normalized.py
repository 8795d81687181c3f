"""The arms of the study of normalized rationals: GR-KAN's function, homogeneous, finite at 0."""

from __future__ import annotations

import pytest
import torch

from tests.examples.conftest import FOLDER

ARMS = ("plain", "act2", "act2_tails", "tails", "both", "token", "act2_frozen")


@pytest.fixture(scope="module")
def make(example):
    def mlp(name: str, module: str = "normalized") -> torch.nn.Module:
        torch.manual_seed(0)
        return example(module).mlp(name, 24, 48).double()

    return mlp


@pytest.mark.parametrize("arm", ["plain", "tails"])
def test_plain_and_tails_start_as_gr_kan(make, arm):
    """Values and gradients, of b = 0 too."""
    x = 3 * torch.randn(5, 7, 24, dtype=torch.float64)
    ours, reference = make(arm), make("grkan", "layers")
    for model in (ours, reference):
        model(x).square().sum().backward()
    assert torch.allclose(ours(x), reference(x), rtol=1e-13, atol=1e-13)
    assert reference.act1.weight_denominator.grad.abs().min() > 0
    for name, parameter in reference.named_parameters():
        assert torch.allclose(ours.get_parameter(name).grad, parameter.grad, rtol=1e-9)


@pytest.mark.parametrize(("arm", "groups"), [("act2", 8), ("token", 1), ("gelu_norm", 8)])
def test_an_activation_is_homogeneous_and_normalizes_its_groups(make, arm, groups):
    model = make(arm)
    act = model[1] if arm == "gelu_norm" else model.act2
    x = 100 * torch.randn(5, 48, dtype=torch.float64)
    assert torch.allclose(act(7 * x), 7 * act(x), rtol=1e-8)
    width = 48 // groups
    moved = x.clone()
    moved[:, width:] *= 5  # another group
    assert torch.equal(act(moved)[:, :width], act(x)[:, :width])


@pytest.mark.parametrize("arm", ARMS)
def test_zeros_have_finite_gradients(make, arm):
    x = torch.zeros(3, 24, dtype=torch.float64, requires_grad=True)
    model = make(arm)
    model(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert sum(p.requires_grad for p in model.act2.parameters()) == {
        "act2_frozen": 0, "tails": 3, "act2_tails": 3,
    }.get(arm, 2)  # fmt: skip


def test_the_page_has_the_tables_of_the_committed_rows(example):
    """``python examples/domains/normalized_report.py --page docs/results-details.md``."""
    page = (FOLDER.parents[1] / "docs/results-details.md").read_text()
    tables = example("normalized_report").made(FOLDER / "results")
    assert all(table in page for table in tables.values())
