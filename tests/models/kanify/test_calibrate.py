"""Calibration: rationals fitted to the inputs of the activations on some batches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from timm.layers import Mlp
from torch import nn
from torch.nn import functional

import kat
from kat.errors import InputError
from kat.models.kanify.calibrate import channel_weights, run_batch, seen_inputs
from kat.models.kanify.find import find
from tests.models.kanify.models import encoder, images, output, sequential, state, vit

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


@pytest.mark.slow
@pytest.mark.parametrize("build", [vit, encoder])
def test_calibration_lowers_the_error_on_other_inputs(build):
    torch.manual_seed(0)
    model = build().train()
    batches = [images(8, s) if build is vit else torch.randn(4, 9, 16) for s in range(3)]
    before = output(model, batches[0])
    moved = {}
    at_first = state(model.train())
    for calibration in (None, batches[1:]):
        changed = copy.deepcopy(model.train())
        kat.kanify(changed, calibration=calibration)
        assert changed.training
        moved[calibration is None] = (output(changed, batches[0]) - before).square().mean().sqrt()
        kat.kanify(model, calibration=calibration, dry_run=True)
        assert state(model) == at_first  # no hooks are left
    assert moved[False] < 0.3 * moved[True]
    assert torch.backends.mha.get_fastpath_enabled()


def test_calibration_covers_rare_large_inputs():
    torch.manual_seed(0)
    model, x = sequential(nn.GELU()), torch.randn(2000, 16)
    x[0] *= 30
    with torch.no_grad():
        hidden = model[0](x)
    plan = kat.kanify(model, calibration=[x])
    fitted = plan.replacements[0].fitted
    low, high = fitted.coefficients.interval
    assert low < hidden.min() < -6 < 6 < hidden.max() < high
    error = (model[1](hidden) - functional.gelu(hidden)).abs()
    assert error[1:].square().mean().sqrt() < 2e-3
    assert error[0].max() < 0.05 * hidden[0].abs().max()


def test_the_plan_marks_a_fit_that_is_far_off_beyond_the_inputs_seen():
    torch.manual_seed(0)
    model, x = sequential(nn.ReLU()), 0.3 * torch.randn(500, 16)
    hidden = output(model[0], x)
    text = str(kat.kanify(model, calibration=[x]))
    assert " !  " in text
    assert f"seen in [{hidden.min():.3g}, {hidden.max():.3g}]" in text
    assert "later inputs" in text


def inputs_of(model, batches):
    sites = [*find(model).mlps.values()]
    ((_, inputs),) = seen_inputs(model, sites, batches, run_batch, (-6, 6)).values()
    return inputs


def test_calibration_weights_inputs_by_their_effect_on_the_output():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.GELU(), nn.Linear(2, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    x = torch.tensor([[1.0, -1.0], [3.0, -2.0], [1.0, -1.0]])
    seen = inputs_of(model, [x, x[:1]])
    assert np.isclose(seen.effect.sum(), 1)
    assert seen.x[[0, -1]] == pytest.approx([-6, 6])
    for value, effect in ((-2, 1), (-1, 3), (1, 12), (3, 4)):  # |W_2 e_c|^2 is 4 and 1
        assert seen.effect[seen.x == value] == pytest.approx(effect / 20, rel=1e-9)


def test_calibration_keeps_few_of_many_inputs_with_their_total_weight():
    model, x = sequential(nn.GELU()).double(), torch.randn(40_000, 16).double()
    seen = inputs_of(model, [x])
    hidden, norms = output(model[0], x), model[3].weight.square().sum(0)
    assert len(seen.x) < 3500 < hidden.numel()
    for power in (1, 2, 4):
        exact = ((hidden**power * norms).sum() / norms.sum() / len(x)).item()
        assert (seen.effect @ seen.x**power).item() == pytest.approx(exact, rel=0.01)
        even = 6**power / (power + 1) * (power % 2 == 0)  # over [-6, 6]
        assert (seen.even @ seen.x**power).item() == pytest.approx(even, rel=0.02, abs=1e-9)


def test_batches_may_be_mappings_and_tuples_or_run_by_a_function():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Mlp(8, 16)

        def forward(self, x, y):
            return self.mlp(x + y)

    model, (x, y) = Two(), torch.randn(2, 4, 8)
    as_mapping = kat.kanify(model, calibration=[{"x": x, "y": y}], dry_run=True)
    as_tuple = kat.kanify(model, calibration=[(x, y)], dry_run=True)
    by_function = kat.kanify(
        model, calibration=[(y, x, "label")], run=lambda m, batch: m(*batch[:2]), dry_run=True
    )
    assert as_mapping.record() == as_tuple.record() == by_function.record()
    assert "seen in" in str(as_mapping)
    with pytest.raises(InputError, match=r"positional arguments.*run=lambda"):
        kat.kanify(model, calibration=[(x, y, "label")])


def test_calibration_weights_all_channels_equally_if_the_second_linear_map_is_zero():
    torch.manual_seed(0)
    model, x = nn.Sequential(Mlp(8, 16)), torch.randn(500, 8)
    with torch.no_grad():
        model[0].fc2.weight.zero_()
    fitted = kat.kanify(model, calibration=[x]).replacements[0].fitted
    assert fitted.seen
    assert fitted.rms_error < 1e-3


def test_the_effect_of_a_channel_does_not_depend_on_the_bias():
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16()
    with torch.no_grad():
        linear.weight.mul_(0.1)
        linear.bias.fill_(300)  # in bfloat16 W e_c + b would be b
    exact = linear.weight.double().square().sum(0)
    torch.testing.assert_close(channel_weights(linear), exact, rtol=1e-12, atol=0)
    assert (linear.bias == 300).all()


def test_an_mlp_that_calibration_does_not_reach_is_fitted_on_the_interval():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = Mlp(8, 16), Mlp(8, 16)

        def forward(self, x):
            return self.used(x)

    plan = kat.kanify(Unused(), calibration=[torch.randn(2, 8)])
    assert [bool(r.fitted.seen) for r in plan.replacements] == [True, False]
    model = Unused()
    before = state(model)
    with pytest.raises(InputError, match="no activation"):
        kat.kanify(model, "unused", calibration=[torch.randn(2, 8)])
    with pytest.raises(InputError, match=r"\[batch\]"):
        kat.kanify(model, calibration={"x": torch.randn(2, 8)})
    assert state(model) == before
