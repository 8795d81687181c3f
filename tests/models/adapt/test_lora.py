"""PEFT's LoRA in kanified models, merged into their weights."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import Tensor, nn

import kat

peft = pytest.importorskip("peft", reason="peft is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {
    "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "vocab_size": 100,
}  # fmt: skip
TOKENS = torch.randint(3, 100, (4, 16), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
POINTS = torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
MLP = ["fc1", "fc2"]


def deit() -> nn.Module:
    return timm.create_model("deit_tiny_patch16_224", img_size=32, depth=2)


def convnext() -> nn.Module:
    return timm.create_model("convnext_atto", depths=(1, 1, 1, 1))


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES))


def bert() -> nn.Module:
    return transformers.BertModel(transformers.BertConfig(**SIZES))


def own() -> nn.Module:
    fc1, fc2 = nn.Linear(8, 32), nn.Linear(32, 4)
    return nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(), fc2=fc2))


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 8, 3), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 28 * 28, 4))


MODELS = {
    "DeiT": (deit, IMAGES, MLP),
    "ConvNeXt": (convnext, IMAGES, MLP),
    "Llama": (llama, TOKENS, "all-linear"),
    "BERT": (bert, TOKENS, "all-linear"),
    "own MLP": (own, POINTS, MLP),
    "own MLP, first map": (own, POINTS, ["fc1"]),
    "convolutions": (convolutions, IMAGES, ["0", "3", "6"]),
}
CASES = [(name, "mlps") for name in MODELS if name != "convolutions"]
CASES += [("BERT", "activations"), ("convolutions", "activations")]


def output(model: nn.Module, x: Tensor) -> Tensor:
    y = model(x)
    return y if isinstance(y, Tensor) else y[0]


def train(model: nn.Module, x: Tensor) -> Tensor:
    """Train what is trainable; the output afterwards."""
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-2))
    for _ in range(4):
        optimizer.zero_grad()
        (output(model, x) - 1).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return output(model, x)


def test_rationals_put_into_a_model_with_lora_are_saved_with_it(tmp_path):
    model = peft.get_peft_model(llama().eval(), peft.LoraConfig(r=4, target_modules="all-linear"))
    kat.kanify(model)
    kat.adapt(model, "rational", freeze=False)
    expected = train(model, TOKENS)
    model.merge_and_unload().save_pretrained(tmp_path)
    again = kat.models.load_pretrained(transformers.AutoModelForCausalLM, tmp_path)
    with torch.no_grad():
        assert (output(again, TOKENS) - expected).norm() < 3e-6 * expected.norm()


@pytest.mark.parametrize(("name", "what"), CASES)
def test_a_model_with_lora_beside_its_rationals_is_merged_to_rounding(name, what):
    build, x, targets = MODELS[name]
    torch.manual_seed(0)
    model = build().eval()
    kat.kanify(model, what=what)
    start = train(model, x)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets)).eval()
    expected = train(adapted, x)
    with torch.no_grad():
        merged = output(adapted.merge_and_unload(), x)
    assert (expected - start).norm() > 1e-3 * start.norm()
    assert (merged - expected).norm() < 3e-6 * expected.norm()
