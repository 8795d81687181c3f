"""Adapted models through ``save_pretrained`` of transformers and ``load_pretrained``."""

import json

import pytest
import torch

import kat
from kat.errors import InputError
from kat.models import load_pretrained
from kat.models.adapt import adapters_of
from tests.models.adapt.models import each_kind, trainable, trained

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 100,
}  # fmt: skip
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 2, "vocab_size": 100}
TOKENS = torch.arange(20).reshape(2, 10)


def build(kind: str) -> torch.nn.Module:
    """A small classifier with a norm, adapters and a head that have been trained."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, num_labels=3, pad_token_id=0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    if kind != "parallel":
        kat.kanify(model)
    kat.adapt(model, kind, "layers.0", modules_to_save="score")
    return trained(model)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(TOKENS).logits


@each_kind
def test_an_adapted_model_is_loaded_with_its_adapters_and_they_leave_it(kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path / "one", max_shard_size="10KB")
    auto = transformers.AutoModelForSequenceClassification
    again, info = load_pretrained(auto, tmp_path / "one", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(again), logits(model))
    labels = torch.tensor([0, 2])
    assert torch.equal(again(TOKENS, labels=labels).loss, model(TOKENS, labels=labels).loss)
    assert trainable(again) == trainable(model)
    low = load_pretrained(auto, tmp_path / "one", dtype=torch.bfloat16)
    torch.testing.assert_close(logits(low).float(), logits(model), rtol=0.05, atol=0.01)
    low.save_pretrained(tmp_path / "two")
    same = load_pretrained(auto, tmp_path / "two", dtype="auto")
    torch.testing.assert_close(same.state_dict(), low.state_dict(), rtol=0, atol=0)
    assert {p.dtype for p in same.parameters()} == {torch.bfloat16, torch.float32}
    (adapters,) = adapters_of(again)
    assert str(adapters) == str(adapters_of(model)[0])
    if kind == "parallel":
        adapters.remove()
        assert not any("parallel" in name for name in again.state_dict())
    else:
        adapters.merge()
        torch.testing.assert_close(logits(again), logits(model))
    assert not adapters_of(again)


@each_kind
def test_what_else_is_trainable_stays_so(kind, tmp_path):
    torch.manual_seed(0)
    model = transformers.GPT2Model(transformers.GPT2Config(**GPT2))
    model.wte.requires_grad_(False)
    if kind != "parallel":
        kat.kanify(model)
    kat.adapt(model, kind, freeze=False)
    model.save_pretrained(tmp_path)
    again = load_pretrained(type(model), tmp_path)
    assert adapters_of(again)[0].freeze is False
    by_hand = {"wte.weight": True}  # frozen by hand, which no record has
    assert trainable(again) == trainable(model) | by_hand


@pytest.mark.parametrize("only", [None, "h.0"])
def test_a_merged_model_is_loaded_as_a_kanified_one(only, tmp_path):
    torch.manual_seed(0)
    model = transformers.GPT2Model(transformers.GPT2Config(**GPT2)).eval()
    plan = kat.kanify(model)
    adapters = kat.adapt(model, "low_rank", only)
    for act in kat.nn.rationals(model).values():
        for parameter in act.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    adapters.merge()
    model.save_pretrained(tmp_path)
    again = load_pretrained(type(model), tmp_path)
    with torch.no_grad():
        assert torch.equal(again(TOKENS)[0], model(TOKENS)[0])
    other = transformers.GPT2Model(transformers.GPT2Config(**GPT2)).eval()
    kat.models.kanify.kanify_like(other, plan.record())
    other.load_state_dict(model.state_dict())


def test_a_model_without_its_head_has_the_adapters_too(tmp_path):
    model = build("rational")
    model.save_pretrained(tmp_path)
    base = load_pretrained(transformers.LlamaModel, tmp_path)
    with torch.no_grad():
        assert torch.equal(base(TOKENS)[0], model.model(TOKENS)[0])
    base.save_pretrained(tmp_path / "base")
    again = load_pretrained(type(model), tmp_path / "base")
    with torch.no_grad():
        assert torch.equal(again.model(TOKENS)[0], model.model(TOKENS)[0])
    adapters_of(base)[0].remove()
    assert not adapters_of(base)
    base.save_pretrained(tmp_path / "base")
    assert not adapters_of(load_pretrained(type(model), tmp_path / "base"))


def test_another_head_may_lack_an_activation(tmp_path):
    """A classifier of tokens has no pooler."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES)).eval()
    kat.kanify(model, what="activations")
    kat.adapt(model, "rational")
    trained(model).save_pretrained(tmp_path)
    other = load_pretrained(transformers.AutoModelForTokenClassification, tmp_path)
    with torch.no_grad():
        assert torch.equal(other.bert(TOKENS)[0], model.bert(TOKENS)[0])
    assert [len(one.modules) for one in adapters_of(other)] == [SIZES["num_hidden_layers"]]


def test_a_tied_head_that_is_saved_stays_trainable_and_is_restored(tmp_path):
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).eval()
    kat.kanify(model)
    before, known = trainable(model), logits(model)
    adapters = kat.adapt(model, "low_rank", modules_to_save="lm_head")
    trained(model).save_pretrained(tmp_path)
    again = load_pretrained(type(model), tmp_path)
    assert trainable(again) == trainable(model)
    assert again.lm_head.weight.requires_grad
    adapters.remove()
    assert trainable(model) == before
    assert torch.equal(logits(model), known)


def test_removed_adapters_leave_no_record(tmp_path):
    torch.manual_seed(0)
    model = transformers.GPT2Model(transformers.GPT2Config(**GPT2))
    kat.adapt(model, "parallel").remove()
    assert not hasattr(model.config, "kat_changes")
    plan = kat.kanify(model)
    adapters = kat.adapt(model, "rational", "h.0")
    others = kat.adapt(model, "low_rank", "h.1", freeze=False)
    others.remove()
    assert [list(a.places) for a in adapters_of(model)] == [list(adapters.places)]
    adapters.remove()
    assert model.config.kat_changes == json.loads(json.dumps([plan.record()]))


@each_kind
def test_weights_that_lack_the_adapters_are_refused(kind, tmp_path):
    """Others have loaded the model without kat and saved it."""
    model = build(kind)
    model.save_pretrained(tmp_path)
    type(model).from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"weights lack .*LlamaForSequenceClassification\.from"):
        load_pretrained(type(model), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kat_changes": []}, r"no record of kat.kanify.*change the whole with only="),
        ({"kat_changes": [{"kanify": 99}]}, "another version of kat"),
        ({"intermediate_size": 56}, "of another model"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(change, message, tmp_path):
    build("rational").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=message):
        load_pretrained(transformers.AutoModel, tmp_path)
