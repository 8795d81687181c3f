"""Models of other libraries with rationals by name, against the same models with them put in."""

from __future__ import annotations

import sys

import pytest
import timm
import torch
from timm.layers import get_act_layer
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.activations import ACT2FN

import kat
from kat.errors import InputError
from kat.nn import preset_names
from tests.equality import assert_equal
from tests.marks import most_at_night

TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 20, "use_cache": False,
}  # fmt: skip
TOKENS = {"input_ids": torch.arange(16).view(2, 8)}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PIXELS = {"pixel_values": IMAGES}
TRANSFORMERS = {
    "llama": ({"hidden_act": "rational"}, TEXT, TOKENS, {}),
    "gpt2": (
        {"activation_function": "rational_gelu_tanh"},
        {"n_embd": 32, "n_layer": 2, "n_head": 2, "eos_token_id": 0, "bos_token_id": 0,
         "use_cache": False},
        TOKENS, {"init": "gelu_tanh"},
    ),
    "bert": ({"hidden_act": "rational_gelu"}, TEXT, TOKENS, {"init": "gelu"}),
    "vit": (
        {"hidden_act": "rational_gelu"}, {**TEXT, "image_size": 32, "patch_size": 8}, PIXELS,
        {"init": "gelu"},
    ),
    "convnext": (
        {"hidden_act": "rational_nhwc"}, {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
        PIXELS, {"channel_dim": -1},
    ),
    "t5": (
        {"feed_forward_proj": "gated-rational"},
        {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2,
         "use_cache": False},
        {**TOKENS, "decoder_input_ids": TOKENS["input_ids"]}, {},
    ),
    "resnet": (
        {"hidden_act": "rational_nchw_relu"},
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        PIXELS, {"init": "relu", "channel_dim": 1},
    ),
}  # fmt: skip
"""By model: the setting by name, the sizes, the inputs, and the arguments of a rational by hand."""
TIMM = {
    "convnext_tiny": (
        "rational_nhwc_gelu", {"depths": [1] * 4, "dims": [8, 16, 24, 32]},
        {"init": "gelu", "channel_dim": -1},
    ),
    "mixer_s16_224": ("rational_gelu", {"img_size": 32}, {"init": "gelu"}),
    "test_efficientnet": ("rational_nchw", {}, {"num_groups": 2, "channel_dim": 1}),
}  # fmt: skip
"""By model: the name, the sizes, and the arguments of a rational by hand."""


@pytest.fixture(autouse=True)
def registered():
    """What a first call returns; each test begins and ends with 8 groups."""
    yield kat.register_activations()
    kat.register_activations()


def output(model, inputs):
    found = model(**inputs)
    return found if isinstance(found, torch.Tensor) else found[0]


def assert_equal_by_hand(model, plain, inputs, by_hand):
    """A model is the plain one in which rationals are put by hand, to the bit."""
    assert kat.nn.rationals(model)
    for name, found in kat.nn.rationals(model).items():
        rational = kat.GroupRational(**{"init": "silu", **by_hand})
        assert all(map(torch.equal, found.parameters(), rational.parameters()))
        plain.set_submodule(name, rational, strict=True)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(output(model.eval(), inputs), output(plain.eval(), inputs))


def step(model, inputs):
    before = [act.weight_numerator.detach().clone() for act in kat.nn.rationals(model).values()]
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-3, weight_decay=0.05))
    output(model.train(), inputs).square().mean().backward()
    optimizer.step()
    after = [act.weight_numerator for act in kat.nn.rationals(model).values()]
    assert not any(map(torch.equal, before, after))
    model.eval()


def assert_same(again, model, inputs):
    assert_equal(again.state_dict(), model.state_dict())
    assert torch.equal(output(again.eval(), inputs), output(model, inputs))


def assert_compiles_and_exports(model, inputs):
    with torch.no_grad():
        wanted = output(model, inputs)
        compiled = torch.compile(model, backend="aot_eager")
        torch.testing.assert_close(output(compiled, inputs), wanted)
        program = torch.export.export(model, (), inputs)
        torch.testing.assert_close(output(program.module(), inputs), wanted)
    calls = [str(node.target) for node in program.graph.nodes]
    assert "kat.rational.default" in calls


@pytest.mark.slow
@pytest.mark.parametrize("kind", most_at_night(TRANSFORMERS, ["llama", "vit", "resnet"]))
def test_a_model_of_transformers(kind, tmp_path):
    setting, sizes, inputs, by_hand = TRANSFORMERS[kind]
    gated = {"feed_forward_proj": "gated-gelu"} if kind == "t5" else {}
    named = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **setting))
    plain = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **gated))
    assert_equal_by_hand(named, plain, inputs, by_hand)
    step(named, inputs)
    named.save_pretrained(tmp_path)
    assert_same(AutoModel.from_pretrained(tmp_path), named, inputs)
    assert_compiles_and_exports(named, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", most_at_night(TIMM, ["convnext_tiny"]))
def test_a_model_of_timm(kind, tmp_path):
    name, sizes, by_hand = TIMM[kind]
    kat.register_activations(by_hand.get("num_groups", 8))
    sizes = {**sizes, "num_classes": 0}
    act_layer = get_act_layer(name) if kind.startswith("mixer") else name  # it takes no name
    named = timm.create_model(kind, **sizes, act_layer=act_layer)
    assert_equal_by_hand(named, timm.create_model(kind, **sizes), {"x": IMAGES}, by_hand)
    step(named, {"x": IMAGES})
    file = tmp_path / "model.pth"
    torch.save(named.state_dict(), file)
    again = timm.create_model(kind, **sizes, act_layer=act_layer, checkpoint_path=file)
    assert_same(again, named, {"x": IMAGES})
    assert_compiles_and_exports(named, {"x": IMAGES})


@pytest.mark.slow
@pytest.mark.parametrize("act", ["rational_nchw", ("rational_nchw", {"num_groups": 4})])
def test_a_u_net_of_monai(act, tmp_path):
    pytest.importorskip("monai", reason="MONAI, of the extra [release], is not installed")
    from monai.networks.nets import UNet
    from monai.networks.utils import save_state

    named, plain, again = (
        UNet(3, 1, 2, channels=(8, 16, 32), strides=(2, 2), act=each) for each in (act, "elu", act)
    )
    inputs = {"x": torch.randn(1, 1, 16, 16, 16)}
    options = {"channel_dim": 1, **(act[1] if isinstance(act, tuple) else {})}
    assert_equal_by_hand(named, plain, inputs, options)
    step(named, inputs)
    save_state(named, tmp_path / "model.pt")
    again.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert_same(again, named, inputs)
    assert_compiles_and_exports(named, inputs)


def test_every_preset_has_a_name_in_every_layout(registered):
    assert registered["transformers"] == registered["timm"]
    for layout, dim in {"rational": None, "rational_nchw": 1, "rational_nhwc": -1}.items():
        for name, init in [(layout, "silu"), *((f"{layout}_{p}", p) for p in preset_names())]:
            for found in (ACT2FN[name], get_act_layer(name)(inplace=True)):
                assert (found.num_groups, found.channel_dim, found.init) == (8, dim, init)
    assert ACT2FN["rational"] is not ACT2FN["rational"]


def test_twice_is_once_and_other_groups_hold_for_later_models(registered):
    before = get_act_layer("rational"), ACT2FN.get("rational")
    assert kat.register_activations() == registered
    assert (get_act_layer("rational"), ACT2FN.get("rational")) == before
    built = ACT2FN["rational"]
    kat.register_activations(num_groups=4)
    assert (built.num_groups, ACT2FN["rational"].num_groups) == (8, 4)


def test_a_name_of_another_owner_is_an_error_that_changes_nothing(monkeypatch):
    monkeypatch.setitem(ACT2FN, "rational_tanh", nn.Tanh)
    with pytest.raises(InputError, match=r"transformers .*'rational_tanh'.*Tanh"):
        kat.register_activations(num_groups=4)
    assert type(ACT2FN["rational_tanh"]) is nn.Tanh
    assert ACT2FN["rational"].num_groups == get_act_layer("rational")().num_groups == 8


def test_a_library_that_is_absent_or_of_another_version_is_named_with_the_reason(monkeypatch):
    monkeypatch.delattr("timm.layers.create_act._ACT_LAYER_DEFAULT")
    monkeypatch.delattr("transformers.activations.ACT2FN")
    monkeypatch.setitem(sys.modules, "monai", None)
    known = kat.register_activations()
    assert known["monai"] == "not installed"
    assert "act_layer=kat.GroupRational" in known["timm"]
    assert "ACT2FN" in known["transformers"]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("rational", (2, 12), "12 channels are not divisible by num_groups=8, but by 1, 2, 3"),
        ("rational_nchw", (2, 12, 4, 4), "12 channels .* num_groups=8"),
        ("rational", (2, 8, 4, 4), '"rational_nchw" or "rational_nhwc"'),
    ],
)
def test_an_input_that_does_not_fit_is_one_line(name, shape, message):
    with pytest.raises(ValueError, match=message) as raised:
        ACT2FN[name](torch.zeros(shape))
    assert "\n" not in str(raised.value)
