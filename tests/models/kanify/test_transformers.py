"""kanify on models of Hugging Face transformers, which the library does not know by name."""

from __future__ import annotations

import pytest
import torch

import kat
from kat.models import load_pretrained
from kat.models.kanify.calibrate import channel_weights

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip
IMAGE = {"image_size": 32, "patch_size": 16}
TEXT = {"vocab_size": 100, "max_position_embeddings": 16}
GPT2 = {
    "n_embd": 24, "n_layer": 2, "n_head": 2, "vocab_size": 100, "n_positions": 16,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MODELS = {
    "Bert": ({**SMALL, **TEXT}, "encoder.layer.0.intermediate.intermediate_act_fn", "gelu"),
    "ViT": ({**SMALL, **IMAGE}, "layers.0.mlp.activation_fn", "gelu"),
    "GPT2": (GPT2, "h.0.mlp.act", "gelu_tanh"),
}


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name][0])
    return getattr(transformers, f"{name}Model")(config).eval()


def inputs(name: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if "image_size" in MODELS[name][0]:
        return torch.randn(3, 3, 32, 32, generator=generator)
    return torch.randint(3, 100, (3, 16), generator=generator)


@torch.no_grad()
def output(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).last_hidden_state


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_its_function(name):
    _, activation, function = MODELS[name]
    model, x = build(name), inputs(name)
    before = output(model, x)
    plan = kat.kanify(model)
    assert len(plan.replacements) == 2
    mlp = plan.replacements[0].site
    width = model.config.hidden_size
    assert (mlp.activation, mlp.function) == (activation, function)
    assert mlp.widths[::2] == (width, width)
    moved = (output(model, x) - before).abs().max() / before.abs().max()
    assert 0 < moved < 0.05
    model = build(name)
    kat.kanify(model, calibration=[x])
    assert (output(model, x) - before).abs().max() / before.abs().max() < 0.2 * moved


def test_channel_weights_of_a_transposed_linear_map():
    linear = build("GPT2").h[0].mlp.c_proj
    expected = linear.weight.square().sum(1)  # (d_in, d_out), unlike that of nn.Linear
    torch.testing.assert_close(channel_weights(linear).float(), expected)


@pytest.mark.parametrize("name", ["Bert", "GPT2"])
def test_load_pretrained_puts_the_rationals_back(name, tmp_path):
    model, x = build(name), inputs(name)
    kat.kanify(model, "*.0", config=kat.KanifyConfig(groups=4, share="none"))
    second = kat.kanify(model, "*.1", calibration=[x])
    with torch.no_grad():
        second.replacements[0].act.weight_numerator.mul_(1.5)
    model.save_pretrained(tmp_path / "one")
    again = load_pretrained(transformers.AutoModel, tmp_path / "one")
    assert torch.equal(output(again, x), output(model, x))
    assert type(again) is type(model)
    again.save_pretrained(tmp_path / "two")
    again = load_pretrained(type(model), tmp_path / "two", dtype=torch.bfloat16)
    rationals = kat.nn.rationals(again)
    assert list(rationals) == list(kat.nn.rationals(model))
    assert {r.weight_numerator.dtype for r in rationals.values()} == {torch.bfloat16}


def test_a_mixture_that_is_stored_under_other_names_is_loaded(tmp_path):
    torch.manual_seed(0)
    sizes = {"num_key_value_heads": 2, "num_local_experts": 3}
    config = transformers.MixtralConfig(**SMALL, **TEXT, **sizes)
    model, x = transformers.MixtralForCausalLM(config).eval(), inputs("GPT2")
    names = [r.site.activation for r in kat.kanify(model).replacements]
    assert names == [f"model.layers.{layer}.mlp.experts.act_fn" for layer in range(2)]
    kat.adapt(model, "low_rank", freeze=False)
    model.save_pretrained(tmp_path)
    again = load_pretrained(transformers.AutoModelForCausalLM, tmp_path)
    assert torch.equal(output(again.model, x), output(model.model, x))


@pytest.mark.parametrize("kind", ["GPT2Model", "GPT2LMHeadModel"])
def test_models_of_one_configuration_have_records_of_their_own(kind, tmp_path):
    torch.manual_seed(0)
    config, x = transformers.GPT2Config(**GPT2), inputs("GPT2")
    first, second = (getattr(transformers, kind)(config).eval() for _ in range(2))
    kat.kanify(first)
    kat.kanify(second, config=kat.KanifyConfig(groups=4))
    assert first.base_model.config is first.config
    for model in (first, second):
        model.save_pretrained(tmp_path)
        again = load_pretrained(type(model), tmp_path)
        assert torch.equal(output(again.base_model, x), output(model.base_model, x))


@pytest.mark.parametrize("of_part", [False, True])
def test_changes_of_a_whole_and_of_its_part_are_merged_and_saved(of_part, tmp_path):
    model, x = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)).eval(), inputs("GPT2")
    kat.kanify(model.transformer if of_part else model)
    kat.adapt(model if of_part else model.transformer, "low_rank").merge()
    model.save_pretrained(tmp_path)
    again = load_pretrained(transformers.AutoModelForCausalLM, tmp_path)
    assert torch.equal(output(again.transformer, x), output(model.transformer, x))
