"""ViTs converted to KATs. The sources are timm's models with random weights in realistic sizes, and
their outputs are the reference."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import kat
from kat.models import convert_vit, init_from_vit, read_vit, save_model
from kat.models.conversion.act2 import half_widths
from tests.marks import most_at_night
from tests.models.conversion.vits import SMALL, TINY, distance, images, trained
from tests.models.small import record_of

RATIONALS = {"form": "B", "degree": [4, 3], "num_groups": 4, "share": "none"}


VITS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "384": ("vit_tiny_patch16_384", {"img_size": 48}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 42}),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 42}),
    "gap": ("vit_medium_patch16_gap_256", {}),
    "map": ("vit_base_patch16_siglip_224", {"embed_dim": 192, "num_heads": 3}),
    "clip": ("vit_base_patch16_clip_quickgelu_224", {"embed_dim": 192, "num_heads": 3}),
    "avg with class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "avg with all tokens": (
        "vit_tiny_patch16_224", {"global_pool": "avg", "pool_include_prefix": True},
    ),
    "no biases": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "norms inside": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_mlp_norm": True}),
}  # fmt: skip
BY_DAY = {
    "vit", "deit3", "dinov2 registers", "gap", "map", "clip", "avg with all tokens", "no biases",
    "norms inside",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", most_at_night(VITS, BY_DAY))
def test_a_kat_of_each_family_computes_what_the_vit_does(case):
    name, args = VITS[case]
    vit = trained(timm.create_model(name, **{**SMALL, **args}))
    width, heads = vit.embed_dim, vit.blocks[0].attn.num_heads
    patch = vit.patch_embed.patch_size[0]
    own = {"img_size": vit.patch_embed.img_size, "patch_size": patch, "depth": 2}
    model, record, report = convert_vit(
        vit, TINY, args={**own, "embed_dim": width, "num_heads": heads}
    )
    largest, rms = distance(model, vit)
    assert max(largest, rms) <= 1e-2
    assert 0 < report.moved.rms <= 1e-2
    assert report.dropped == []
    assert report.resized == {}
    assert set(report.fresh) == kat.models.rational_parameter_names(model)
    assert set(report.carried) == set(vit.state_dict())
    assert len(record.classes) == vit.num_classes


def test_a_higher_degree_fits_far_more_closely():
    vit = trained(timm.create_model("vit_tiny_patch16_224", **SMALL))
    model, _, report = convert_vit(vit, TINY, args={**SMALL, "degree": [9, 8]})
    assert max(distance(model, vit)) <= 3e-4
    assert report.fit_error <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["quick_gelu", "relu"])
def test_act2_is_fitted_to_the_sources_own_activation(activation):
    vit = trained(timm.create_model("vit_tiny_patch16_224", act_layer=activation, **SMALL))
    model, *_ = convert_vit(vit, TINY, args=SMALL)
    limit = 5e-2 if activation == "relu" else 1e-2  # rationals fit a kink less well
    assert max(distance(model, vit)) <= limit
    # A bare file does not tell its activation. GELU is assumed unless one is given.
    silent = read_vit(vit)
    silent = type(silent)(silent.name, silent.weights, classes=silent.classes)
    given, *_ = convert_vit(silent, TINY, args=SMALL, activation=activation)
    assert max(distance(given, vit)) <= limit
    assumed, *_ = convert_vit(silent, TINY, args=SMALL)
    assert distance(assumed, vit)[1] > 3 * distance(given, vit)[1]


def test_a_distillation_token_is_carried_as_a_register_and_its_head_dropped():
    vit = trained(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    model, record, report = convert_vit(vit, TINY, args=SMALL)
    assert record.args["reg_tokens"] == 1
    assert report.dropped == ["head_dist.weight", "head_dist.bias"]
    vit.forward_head = lambda x: vit.head(x[:, 0])  # only the class token's logits
    assert max(distance(model, vit)) <= 1e-2


def test_sizes_and_classes_may_differ():
    vit = trained(timm.create_model("vit_tiny_patch16_384", img_size=80, depth=2, num_classes=21))
    args = {"img_size": 48, "patch_size": 8, "depth": 2, "in_chans": 1}
    model, record, report = convert_vit(vit, TINY, args=args, num_classes=5)
    assert report.resized == {
        "patch_embed.proj.weight": ((192, 3, 16, 16), (192, 1, 8, 8)),
        "pos_embed": ((1, 26, 192), (1, 37, 192)),
    }
    assert report.dropped == ["head.weight", "head.bias"]
    assert {"head.weight", "head.bias"} < set(report.fresh)
    assert (record.input_size, record.mean, len(record.classes)) == ((1, 48, 48), (0.5,), 5)
    assert model(torch.randn(1, 1, 48, 48)).shape == (1, 5)
    assert torch.equal(model.blocks[1].mlp.fc2.weight, vit.blocks[1].mlp.fc2.weight)
    # timm's own way of resizing the same weights, with which the KAT must agree
    resized = timm.create_model("vit_tiny_patch16_224", num_classes=5, **args)
    init_from_vit(resized, vit)
    resized.head.load_state_dict(model.head.state_dict())
    assert max(distance(model, resized.eval())) <= 1e-2


def test_a_folder_gives_activation_preprocessing_and_class_names(tmp_path):
    record = record_of("vit_micro", (1, 32, 32), {"act_layer": "silu"}, ["cat", "dog"])
    vit = trained(kat.models.build_model(record))
    save_model(vit, record, tmp_path)
    model, made, report = convert_vit(tmp_path, "kat_micro")
    assert report.activation == "SiLU"
    assert (made.classes, made.mean, made.std) == (["cat", "dog"], (0.3,), (0.4,))
    assert (made.interpolation, made.crop_pct, made.input_size) == ("bilinear", 0.9, (1, 32, 32))
    assert max(distance(model, vit)) <= 1e-2
    save_model(model, made, tmp_path / "kat")
    again, _ = kat.models.load_model(tmp_path / "kat")
    assert torch.equal(again(images(vit)), model(images(vit)))
    json.dumps(report.to_dict())


def test_a_given_act_init_is_kept():
    vit = trained(timm.create_model("vit_micro"))
    model, _, report = convert_vit(vit, "kat_micro", args={"act_init": "swish"})
    fresh = timm.create_model("kat_micro")
    for block, other in zip(model.blocks, fresh.blocks, strict=True):
        assert torch.equal(block.mlp.act2.weight_numerator, other.mlp.act2.weight_numerator)
    assert report.activation is None
    assert report.moved.rms > 1e-2


def test_a_kat_of_a_kat_has_its_rationals_and_computes_the_same(tmp_path):
    source = trained(timm.create_model("kat_micro", act_init="gelu", **RATIONALS))
    model, record, _ = convert_vit(source, "kat_micro")
    assert {name: record.args[name] for name in RATIONALS} == RATIONALS
    x = images(source)
    assert torch.equal(model(x), source(x))
    save_model(source, record, tmp_path)
    again, *_ = convert_vit(tmp_path, "kat_micro")
    assert torch.equal(again(x), source(x))


@pytest.mark.parametrize("size", [(32, 128), (32, 32), (16, 16)])
def test_positions_of_a_grid_that_is_not_square(size):
    """16 x 64 pixels are 2 x 8 patches, 16 tokens, as 4 x 4 are."""
    from timm.layers import resample_abs_pos_embed

    vit = trained(kat.models.create_model("vit_micro", img_size=(16, 64), patch_size=8, depth=1))
    args = {"img_size": list(size), "patch_size": 8, "depth": 1}
    model, _, report = convert_vit(vit, "kat_micro", args=args)
    grid = [size[0] // 8, size[1] // 8]
    expected = resample_abs_pos_embed(vit.pos_embed, grid, [2, 8], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, expected)
    assert report.moved.rms <= 1e-2


@pytest.mark.parametrize("target", [TINY, "vit_mlp_micro_patch4_28"])
def test_the_epsilon_of_norms_is_kept(target, tmp_path):
    """It decides where the tokens are small, as after timm's initialization."""
    vit = timm.create_model("vit_base_patch16_clip_224", embed_dim=96, num_heads=3, **SMALL).eval()
    args = {**SMALL, "embed_dim": 96, "num_heads": 3, "patch_size": 16, "in_chans": 3}
    given = read_vit(vit).args_for(target)
    model = kat.models.create_model(target, **{**given, **args}, num_classes=vit.num_classes)
    init_from_vit(model, vit, fit=False)
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert read_vit(model).args["norm_eps"] == 1e-5
    if target != TINY:
        assert max(distance(model, vit)) <= 1e-6
        return
    model, record, _ = convert_vit(vit, target, args=args)
    save_model(model, record, tmp_path)
    again, _ = kat.models.load_model(tmp_path)
    assert again.blocks[1].norm2.eps == 1e-5


def test_the_images_determine_the_range_of_the_fit():
    vit = trained(timm.create_model("vit_micro"))
    with torch.no_grad():
        for block in vit.blocks:  # fc1 sees the stream itself, and large images make large inputs
            block.norm2 = torch.nn.Identity()
    vit.blocks[0].mlp.fc1.bias.data += 9
    found = half_widths(vit, images(vit))
    assert found[0] == 10
    assert half_widths(vit, 1e4 * images(vit)) == [10] * 4
