"""Coefficients that a checkpoint of transformers lacks have the initial function after loading."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import kat
from tests.equality import assert_equal

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "vocab_size": 20}
NUMERATOR = "model.layers.{}.mlp.act_fn.weight_numerator"
DENOMINATOR = "model.layers.{}.mlp.act_fn.weight_denominator"


class _Llama(LlamaForCausalLM):
    """With rationals in the places of the activations."""

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp.act_fn = kat.GroupRational(4, init="gelu")
        self.post_init()


def _trained():
    model = _Llama(LlamaConfig(num_hidden_layers=3, **SIZES))
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(index + 1)
    return model


def _start(dtype=torch.float32):
    """The coefficients of the preset: numerator, denominator."""
    return [p.detach() for p in kat.GroupRational(4, init="gelu", dtype=dtype).parameters()]


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": True}, {"dtype": torch.bfloat16}])
def test_a_checkpoint_without_rationals_leaves_their_initial_function(tmp_path, options):
    LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, **SIZES)).save_pretrained(tmp_path / "base")
    model = _Llama.from_pretrained(tmp_path / "base", **options)
    for layer in model.model.layers:
        found = list(layer.mlp.act_fn.parameters())
        assert_equal(found, _start(options.get("dtype", torch.float32)))
    model.save_pretrained(tmp_path / "own")
    again = _Llama.from_pretrained(tmp_path / "own", **options).state_dict()
    assert_equal(again, model.state_dict())


def test_only_what_is_missing_is_reset(tmp_path):
    model = _trained()
    stored = model.state_dict()
    numerator, denominator = _start()
    missing = {
        NUMERATOR.format(0): numerator,
        DENOMINATOR.format(0): denominator,
        DENOMINATOR.format(1): denominator,
    }
    kept = {name: value for name, value in stored.items() if name not in missing}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded = _Llama.from_pretrained(tmp_path).state_dict()
    assert_equal(loaded, {**stored, **missing})


def test_trained_coefficients_are_never_reset(tmp_path):
    model = _trained()
    stored = {name: value.clone() for name, value in model.state_dict().items()}
    for layer in model.model.layers:  # one that transformers has not met
        swapped = kat.GroupRational(4)
        swapped.load_state_dict(layer.mlp.act_fn.state_dict())
        layer.mlp.act_fn = swapped
    model.init_weights()
    model.save_pretrained(tmp_path)
    loaded = _Llama.from_pretrained(tmp_path)
    loaded.init_weights()
    for name in stored:
        if "act_fn" in name:
            assert torch.equal(model.state_dict()[name], stored[name])
            assert torch.equal(loaded.state_dict()[name], stored[name])
