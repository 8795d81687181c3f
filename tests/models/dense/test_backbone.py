"""Backbone and necks: the effect of padding, windows, positions and sizes on the features."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from kat.models.dense import DenseBackbone, Features, MultiLevel, SimpleFeaturePyramid
from tests.equality import assert_equal

GRID = {"class_token": False, "global_pool": "", "num_classes": 0}
FAMILIES = ["kat_micro", "vit_micro", "vit_swiglu_micro", "vit_kan_micro"]


def backbone(name: str = "kat_micro", vit: dict | None = None, **kwargs) -> DenseBackbone:
    """A backbone with relative positions as if trained."""
    torch.manual_seed(0)
    made = DenseBackbone(timm.create_model(name, **(vit or {})), **kwargs).eval()
    for parameter in made.attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_global_attention_without_relative_positions_is_timms_forward(family):
    torch.manual_seed(0)
    vit = timm.create_model(family, **GRID).eval()
    x = images(2, 3, 32, 32)
    expected = vit.forward_intermediates(x, indices=[1, 3], intermediates_only=True, norm=True)
    maps = DenseBackbone(vit, relative_position=False, out_blocks=[1, 3])(x)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize(
    "args",
    [
        {"global_pool": "avg"},
        {"reg_tokens": 2, "no_embed_class": True},
        {"init_values": 0.5, "qk_norm": True, "scale_attn_norm": True},
        {"pre_norm": True, "pos_embed": "none"},
    ],
)
def test_any_of_timms_vits_becomes_a_backbone_without_other_tokens(args):
    made = backbone("vit_tiny_patch16_224", {"img_size": 64, "depth": 2, **args}, window=3)
    assert made(images(2, 3, 64, 64))[0].shape == (2, 192, 4, 4)
    names = dict(made.named_parameters())
    assert not [name for name in names if "token" in name or "head" in name]
    made(images(1, 3, 64, 64))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in names.values())


@pytest.mark.parametrize("size", [(32, 32), (27, 41)])
@pytest.mark.parametrize("window", [0, 3])
def test_padding_and_the_other_images_do_not_matter(size, window):
    made = backbone(window=window, global_blocks=[1])
    height, width = size
    image = images(1, 3, height, width)
    alone = made(image)[0]
    canvas = images(2, 3, 50, 64, seed=2)  # noise where there should be padding
    canvas[:1, :, :height, :width] = image
    features = Features(made, MultiLevel(64, patch=4, scales=[1.0]))
    padded = features(canvas, [size, (48, 60)])[0]
    assert padded.shape == (2, 64, 13, 16)
    rows, columns = alone.shape[2:]
    torch.testing.assert_close(padded[:1, :, :rows, :columns], alone)
    assert not padded[0, :, rows:].any()
    assert not padded[0, :, :, columns:].any()


@pytest.mark.parametrize(("wide", "apart"), [([], True), ([1], False)])
def test_windows_are_independent_except_in_global_blocks(wide, apart):
    made = backbone(window=4, global_blocks=wide)
    x = images(1, 3, 32, 32)
    other = x.clone()
    other[:, :, :, 16:] += 1
    left, right = (made(x)[0] - made(other)[0]).abs().amax((0, 1, 2)).split(4)
    assert (left.max() == 0) == apart
    assert right.min() > 0


@pytest.mark.parametrize("window", [8, 11])
def test_windowed_is_global_when_one_window_covers_the_image(window):
    windowed = backbone(window=window, global_blocks=[])
    wide = backbone(window=0)
    for own, other in zip(windowed.attention, wide.attention, strict=True):
        cut = len(own.rel_pos_h) // 2 - 7, len(own.rel_pos_h) // 2 + 8
        other.rel_pos_h.data = own.rel_pos_h.data[slice(*cut)]
        other.rel_pos_w.data = own.rel_pos_w.data[slice(*cut)]
    x = images(2, 3, 32, 32)
    assert torch.equal(windowed(x)[0], wide(x)[0])


def test_positions_are_resampled_and_the_same_at_the_native_size():
    made = backbone(relative_position=False)
    blank, tokens = copy.deepcopy(made), []
    for parameter in blank.vit.patch_embed.parameters():
        nn.init.zeros_(parameter)
    blank.vit.blocks[0].norm1.register_forward_pre_hook(lambda _, inputs: tokens.append(*inputs))
    blank(images(1, 3, 32, 32))
    assert torch.equal(tokens[0].flatten(1, 2), made.vit.pos_embed)
    dynamic = timm.create_model("kat_micro", dynamic_img_size=True, **GRID).eval()
    dynamic.load_state_dict(made.vit.state_dict())
    x = images(1, 3, 48, 40)
    expected = dynamic.forward_intermediates(x, intermediates_only=True, norm=True)[-1]
    torch.testing.assert_close(made(x)[0], expected)


def test_gradient_checkpointing_gives_the_same_gradients():
    made = backbone(window=3).train()
    x = images(2, 3, 36, 32)
    gradients = []
    for checkpointing in (False, True):
        made.grad_checkpointing = checkpointing
        made.zero_grad()
        made(x)[0].square().mean().backward()
        gradients.append([p.grad.clone() for p in made.parameters()])
    assert_equal(*gradients)


def test_strides_and_shapes_of_the_simple_pyramid():
    pyramid = SimpleFeaturePyramid(width=32, patch=16, channels=8)
    assert pyramid.strides == [4, 8, 16, 32, 64]
    maps = pyramid([torch.randn(2, 32, 7, 6)])
    assert [tuple(x.shape) for x in maps] == [
        (2, 8, 28, 24), (2, 8, 14, 12), (2, 8, 7, 6), (2, 8, 4, 3), (2, 8, 2, 2),
    ]  # fmt: skip
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def test_the_levels_of_several_blocks_each_have_their_own():
    neck = MultiLevel(width=32, patch=16)
    maps = [torch.randn(1, 32, 5, 4) for _ in range(4)]
    found = neck(maps)
    assert [tuple(x.shape[2:]) for x in found] == [(20, 16), (10, 8), (5, 4), (3, 2)]
    assert torch.equal(found[2], maps[2])
    with pytest.raises(ValueError, match="shorter"):
        neck(maps[:3])


@pytest.mark.parametrize("neck", [SimpleFeaturePyramid(32, 16, 8), MultiLevel(32, 16)])
def test_a_patch_keeps_its_place_at_every_stride(neck):
    """The influence of one token on a map lies around its own pixels."""
    x = torch.randn(1, 32, 8, 8)
    other = x.clone()
    other[:, :, 5, 2] += 1
    for before, after, stride in zip(neck([x] * 4), neck([other] * 4), neck.strides, strict=True):
        moved = (before - after).abs().sum(1)[0] > 1e-6
        rows, columns = (axis.float() for axis in moved.nonzero(as_tuple=True))
        for where, token in ((rows, 5), (columns, 2)):
            first, last = where.min() * stride / 16, (where.max() + 1) * stride / 16
            assert token - 2.1 * max(stride / 16, 1) <= first <= token
            assert token + 1 <= last <= token + 1 + 2.1 * max(stride / 16, 1)
