"""Merged and adapted models through ``save_pretrained`` and ``from_pretrained`` of transformers."""

import pytest
import torch

import kat
from kat.errors import InputError

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 100,
}  # fmt: skip
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "vocab_size": 100}
TOKENS = torch.arange(20).reshape(2, 10)


def build(kind: str) -> torch.nn.Module:
    """A small classifier with a norm, adapters that have moved and a head that is trained."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_labels=3, pad_token_id=0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    kat.kanify(model)
    adapters = kat.adapt(model, kind, "layers.0", modules_to_save="score")
    with torch.no_grad():
        for module in adapters.modules.values():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("share", ["numerator", "none"])
@pytest.mark.parametrize("only", [None, "act1", "act"])
def test_a_merged_model_is_loaded_as_a_kanified_one(only, share, tmp_path):
    torch.manual_seed(0)
    model = transformers.GPT2Model(transformers.GPT2Config(**GPT2)).eval()
    plan = kat.kanify(model, config=kat.KanifyConfig(share=share))
    adapters = kat.adapt(model, "low_rank", only)
    for act in kat.nn.rationals(model).values():
        for parameter in act.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    adapters.merge()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(TOKENS)[0], model(TOKENS)[0])
    other = transformers.GPT2Model(transformers.GPT2Config(**GPT2)).eval()
    kat.models.kanify.kanify_like(other, plan.record())
    other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_weights_with_adapters_are_refused(kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"the weights lack .*saved with adapters"):
        type(model).from_pretrained(tmp_path)
