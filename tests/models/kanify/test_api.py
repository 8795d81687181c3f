"""kanify: the function of a model is kept, with names, devices, dtypes and modes."""

from __future__ import annotations

import copy
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from timm.layers import Mlp
from torch import Tensor, nn

import kat
from kat.models.kanify import kanify_like
from tests.models.kanify.models import encoder, images, output, sequential, state, vit
from tests.oracle import rational_numpy

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


@pytest.mark.parametrize("activation", [nn.GELU, nn.ReLU])
def test_the_output_moves_by_no_more_than_the_error_of_the_fit(activation):
    torch.manual_seed(0)
    model, x = Mlp(16, 32, act_layer=activation).double(), torch.randn(64, 16).double()
    before = output(model, x)
    plan = kat.kanify(model)
    # |y' - y| <= max |F_2 - f| sum_c |W_2c|, as long as the inputs of f are within the interval.
    assert output(model.fc1, x).abs().max() < 6
    bound = plan.replacements[0].fitted.max_error * model.fc2.weight.abs().sum(1)
    moved = (output(model, x) - before).abs()
    assert (moved <= bound + 1e-12).all()
    assert moved.max() > 0.01 * bound.max()


def test_a_kanified_mlp_is_the_formula():
    torch.manual_seed(0)
    model, x = sequential(nn.GELU()).double(), torch.randn(64, 16).double()
    kat.kanify(model, config=kat.KanifyConfig(groups=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def rational(y, act):
        numerator, denominator = (
            w.detach().numpy() for w in (act.weight_numerator, act.weight_denominator)
        )
        return rational_numpy(y, numerator, denominator, "A")

    w1, b1, w2, b2 = (p.detach().numpy() for m in (model[0], model[3]) for p in (m.weight, m.bias))
    expected = rational(x.numpy() @ w1.T + b1, model[1]) @ w2.T + b2
    np.testing.assert_allclose(output(model, x).numpy(), expected, rtol=1e-11, atol=1e-11)


def test_blocks_have_settings_of_their_own():
    model = vit()
    config = kat.KanifyConfig(groups=4, degree=[3, 2], share="none")
    (found,) = kat.kanify(model, re.compile(r"blocks\.1"), config=config).replacements
    assert (found.act.num_groups, found.act.degree, found.act.share) == (4, (3, 2), "none")
    kat.kanify(model, exclude="blocks.3")
    assert len(kat.nn.rationals(model)) == 3
    assert isinstance(model.blocks[3].mlp.act, nn.GELU)


@pytest.mark.filterwarnings("default")
def test_a_poor_fit_warns_and_a_good_one_does_not():
    with pytest.warns(UserWarning, match="fit to relu"):
        kat.kanify(sequential(nn.ReLU()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kat.kanify(sequential(nn.GELU()))


def test_mlps_that_share_their_first_linear_map_have_rationals_of_their_own():
    torch.manual_seed(0)
    model, x = nn.Sequential(Mlp(8, 16), Mlp(8, 16)), torch.randn(4, 8)
    model[1].fc1 = model[0].fc1
    model.eval()
    expected = output(model, x)
    plan = kat.kanify(model)
    assert [r.site.activation for r in plan.replacements] == ["0.act", "1.act"]
    assert (output(model, x) - expected).abs().max() < 0.02
    again = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    again[1].fc1 = again[0].fc1
    kanify_like(again, plan.record())
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, x), output(model, x))


def test_torchs_fused_inference_does_not_bypass_the_rationals():
    torch.manual_seed(0)
    model, x = encoder(activation="gelu"), torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model.eval()
    with torch.no_grad():
        before = model(x, src_key_padding_mask=mask)
        kat.kanify(model)
        after = model(x, src_key_padding_mask=mask)
        assert 0 < (after - before)[~mask].abs().max() < 0.05
        model.layers[0].activation.weight_numerator.mul_(2)
        assert (model(x, src_key_padding_mask=mask) - after)[~mask].abs().max() > 0.1


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Linear(8, 8), dict, "the model has no MLP"),
        (nn.Sequential(nn.GELU()), dict, "the code that calls it has no linear map"),
        (
            nn.Sequential(nn.Linear(4, 8), nn.AdaptiveAvgPool1d(16), nn.GELU(), nn.Linear(16, 4)),
            lambda: {"what": "activations"},
            "its channels are unclear from the code",
        ),
        (
            nn.ModuleList([Mlp(8, 16), nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())]),
            lambda: {"only": "1.*"},
            "1.1 is passed over: its input comes from Conv2d, not a linear map",
        ),
        (
            Mlp(8, 18),
            lambda: {"config": kat.KanifyConfig(groups=4)},
            "num_channels=18 is not divisible by num_groups=4",
        ),
    ],
)
def test_invalid_input_is_named_and_leaves_the_model_unchanged(model, settings, message):
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        kat.kanify(model, **settings())
    assert state(model) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_mode_and_frozen_weights_are_kept(dtype):
    model = vit().to(dtype).eval().requires_grad_(False)
    plan = kat.kanify(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not any(module.training for module in model.modules())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == kat.models.rational_parameter_names(model)
    assert 3.0e-3 < plan.replacements[0].fitted.max_error < 5e-3
    assert output(model, images().to(dtype)).isfinite().all()


def test_a_model_on_the_meta_device_stays_there():
    with torch.device("meta"):
        model = vit()
    kat.kanify(model)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model = model.to_empty(device="cpu")
    model.load_state_dict(kanified_state())
    assert output(model, images()).isfinite().all()


def kanified_state() -> dict[str, Tensor]:
    model = vit()
    kat.kanify(model)
    return model.state_dict()


@pytest.mark.slow
def test_compiled_copied_and_exported_models_compute_the_same():
    torch.manual_seed(0)
    model, x = Mlp(8, 16).eval(), torch.randn(5, 8)
    kat.kanify(model)
    with torch.no_grad():
        model.act.weight_numerator.mul_(1.5)  # a compiled model without it would differ
    expected = output(model, x)
    assert torch.equal(output(copy.deepcopy(model), x), expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected)


def test_another_model_does_not_load_the_models_of_transformers(monkeypatch):
    """Other libraries import transformers alone, whose attributes load the models."""
    monkeypatch.setitem(sys.modules, "transformers", object())
    assert kat.kanify(Mlp(8, 16)).replacements
