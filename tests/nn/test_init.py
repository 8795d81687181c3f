"""Initial weights: what has no gain, or does not fit, is refused; modules with parameters work."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import kat
from kat.errors import InputError
from kat.nn import gain, init_attention_mimetic_, init_grkan_
from kat.nn.quadrature import moments
from tests.equality import assert_equal


def test_an_activation_with_parameters_has_its_gain():
    slope = 0.3  # E[F^2] = (1 + slope^2) / 2
    for prelu in (nn.PReLU(init=slope), nn.PReLU(init=slope).bfloat16()):
        assert gain(prelu) == pytest.approx(2 / (1 + slope**2), rel=1e-2)
    mean, _ = moments(nn.PReLU(init=slope))
    assert mean.item() == pytest.approx((1 - slope) / (2 * torch.pi) ** 0.5, rel=1e-6)
    prelu, linear = nn.PReLU(init=slope), nn.Linear(1000, 1000)
    init_grkan_(linear, prelu, "variance_preserving")
    assert linear.weight.std().item() == pytest.approx((1000 * 0.545) ** -0.5, rel=0.01)
    assert prelu.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_are_built_under_a_default_of_half_precision(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = kat.models.create_model("kat_micro", depth=1)
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.isfinite().all() for p in model.parameters())


def test_mimetic_attention_of_other_shapes_is_refused():
    qkv, proj = nn.Linear(10, 30), nn.Linear(10, 10)
    with pytest.raises(InputError, match=r"num_heads divides d; got .* and 3 heads"):
        init_attention_mimetic_(qkv, proj, num_heads=3)


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_coefficients_are_exact_in_the_dtype_of_the_layer(default):
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        layer = kat.GroupRational(1, (9, 8), "silu", dtype=torch.float64)
    finally:
        torch.set_default_dtype(before)
    exact = kat.nn.preset("silu", (9, 8))
    assert layer.weight_numerator[0].tolist() == list(exact.numerator)
    assert layer.weight_denominator[0].tolist() == list(exact.denominator)
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    torch.testing.assert_close(layer(x[:, None])[:, 0], nn.functional.silu(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(layer.initial_functions(x), nn.functional.silu(x)[None])
    assert torch.equal(layer.functions(x), layer.functions(x.numpy()))


@pytest.mark.parametrize(
    "values", [((0.0, 1.0), (float("nan"),), "A"), ((1.0,), (0.0,), "A"), ((0.0, 1.0), (), "C")]
)
def test_coefficients_that_no_function_has_are_refused(values):
    with pytest.raises(InputError, match="coefficients must be finite, two or more"):
        kat.Coefficients(*values, (-3, 3), 0.0)


@pytest.mark.parametrize("scheme", ["variance_preserving", "centered"])
def test_an_activation_that_passes_nothing_on_is_refused(scheme):
    with pytest.raises(InputError, match=r"zero everywhere|not constant"):
        init_grkan_(nn.Linear(4, 4), nn.Threshold(1e3, 0.0), scheme)


@pytest.mark.parametrize("invalid", [{"degree": (0, 4)}, {"degree": (5, 4, 3)}, {"form": "C"}])
def test_a_preset_of_an_invalid_degree_or_form_is_refused(invalid):
    with pytest.raises(InputError, match=r"degree must be|form must be"):
        kat.nn.preset("identity", **invalid)


LAYERS = [
    lambda scheme: kat.GRKANMlp(192, 768, weight_init=scheme),
    lambda scheme: kat.GatedGRKANMlp(192, 512, weight_init=scheme),
    lambda scheme: kat.GRKANLinear(192, 768, init="gelu", weight_init=scheme),
]


def _spreads(layer):
    return [m.weight.std().item() for m in layer.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("scheme", ["variance_preserving", "centered"])
@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("copied", [False, True])
def test_resetting_all_modules_gives_the_weights_of_construction(make, scheme, copied):
    """The usual recipe of the meta device; nn.Linear would draw others after its layer has."""
    with torch.device("meta"):
        layer = make(scheme)
    if copied:
        layer = copy.deepcopy(layer)
    layer.to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.testing.assert_close(_spreads(layer), _spreads(make(scheme)), rtol=0.03, atol=0)


def _llama():
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    return LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=100)


def test_init_weights_of_transformers_leaves_a_swapped_mlp_as_it_is():
    model = LlamaForCausalLM(_llama())
    layer = model.model.layers[0]
    layer.mlp = kat.GatedGRKANMlp(64, 128)
    before = [p.clone() for p in layer.mlp.parameters()]
    model.init_weights()
    assert_equal([*layer.mlp.parameters()], before)


class _KatLlama(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = kat.GatedGRKANMlp(64, 128)
        self.post_init()


def test_a_class_of_transformers_with_gr_kan_loads_what_it_saved(tmp_path):
    """From the checkpoint of another class the layers have no values until they are reset."""
    LlamaForCausalLM(_llama()).save_pretrained(tmp_path / "base")
    model = _KatLlama.from_pretrained(tmp_path / "base")
    mlp = model.model.layers[0].mlp
    mlp.reset_parameters()
    fresh = kat.GatedGRKANMlp(64, 128)
    assert torch.equal(mlp.act.weight_denominator, fresh.act.weight_denominator)
    torch.testing.assert_close(_spreads(mlp), _spreads(fresh), rtol=0.05, atol=0)
    model.save_pretrained(tmp_path / "own")
    loaded = _KatLlama.from_pretrained(tmp_path / "own").model.layers[0].mlp
    assert_equal(loaded.state_dict(), mlp.state_dict())
