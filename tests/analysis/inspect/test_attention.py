"""Attention maps, against timm's own unfused attention and against rollout as it is defined."""

from __future__ import annotations

import pytest
import timm
import torch

from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.errors import InputError
from tests.hooks import forward_hooks

NAME, ARGS = "kat_micro_patch2_8", {"in_chans": 1, "img_size": (8, 6), "num_classes": 5}
MODELS = {
    "class token": {},
    "registers, normalized queries and keys": {"reg_tokens": 2, "qk_norm": True},
    "average of the patches": {"class_token": False, "global_pool": "avg"},
    "average beside a class token": {"global_pool": "avg"},
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request):
    torch.manual_seed(0)
    model = timm.create_model(NAME, **ARGS, **request.param)
    for block in model.blocks:
        block.attn.fused_attn = False  # so that timm computes the attention matrices
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(3, 1, 8, 6, generator=torch.Generator().manual_seed(1))


def _unfused(model, images):
    """What timm's own attention hands to its dropout, by layer."""
    found = {}
    for number, block in enumerate(model.blocks):
        name = f"blocks.{number}.attn"
        block.attn.attn_drop.register_forward_hook(
            lambda module, inputs, output, name=name: found.__setitem__(name, output)
        )
    with torch.no_grad():
        model(images)
    return found


def test_maps_are_what_the_head_reads(model, images):
    maps = attention_maps(model, images)
    expected = _unfused(model, images)
    prefix = model.num_prefix_tokens
    rollout = torch.eye(prefix + 12)
    for matrices in expected.values():
        rollout = (0.5 * matrices.mean(1) + 0.5 * torch.eye(prefix + 12)) @ rollout
    for name, matrices in expected.items():
        assert maps.blocks[name].shape == (3, model.blocks[0].attn.num_heads, 4, 3)
        torch.testing.assert_close(maps.blocks[name].flatten(2), _read(model, matrices))
    torch.testing.assert_close(maps.rollout.flatten(1), _read(model, rollout))
    assert maps.tokens == prefix + 12
    with torch.no_grad():
        assert torch.equal(maps.logits, model(images))
    for block in model.blocks:
        block.attn.fused_attn = True
    torch.testing.assert_close(attention_maps(model, images).rollout, maps.rollout)


def _read(model, matrices):
    prefix = model.num_prefix_tokens
    if model.global_pool == "token":
        return matrices[..., 0, prefix:]
    rows = [matrices[..., token, prefix:] for token in range(prefix, matrices.shape[-1])]
    return sum(rows) / len(rows)


def test_places_on_the_map_are_places_in_the_image(images):
    """With keys that see the brightness alone, the brightest patch is the most looked at."""
    model = timm.create_model(NAME, **ARGS, depth=1)
    attention = model.blocks[0].attn
    model.blocks[0].norm1 = torch.nn.Identity()
    with torch.no_grad():
        model.pos_embed.zero_()
        model.patch_embed.proj.weight.fill_(1.0)
        attention.qkv.weight.zero_()
        attention.qkv.bias.fill_(1.0)
        attention.qkv.weight[64:128] = torch.eye(64)
    dark = torch.zeros(1, 1, 8, 6)
    dark[0, 0, 6:8, 2:4] = 1.0
    seen = attention_maps(model, dark).blocks["blocks.0.attn"][0].mean(0)
    assert seen.argmax() == 3 * 3 + 1


def test_the_model_is_left_as_it_was(model, images):
    model.train()
    model.blocks[1].eval()
    before = {name: module.training for name, module in model.named_modules()}
    attention_maps(model, images)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(map(forward_hooks, model.modules()))


def test_a_model_without_attention_is_refused():
    with pytest.raises(InputError, match="ResNet has no"):
        check_attention(timm.create_model("resnet10t"))
