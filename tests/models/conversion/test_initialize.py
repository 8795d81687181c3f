"""Models that start from a ViT, and sources: without a record, by other names, that do not fit."""

from __future__ import annotations

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from kat.errors import InputError
from kat.models import convert_vit, init_from_vit, read_vit
from tests.equality import assert_equal
from tests.models.conversion.vits import distance, trained


def untouched(model: nn.Module, message: str, source: object, **options: object) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        init_from_vit(model, source, **options)
    assert_equal(model.state_dict(), before)


def test_a_kats_own_rationals_are_carried_over():
    source = timm.create_model("kat_micro")
    with torch.no_grad():
        source.blocks[0].mlp.act2.weight_numerator.mul_(1.5)
        source.blocks[1].mlp.act1.weight_denominator.add_(0.1)
    model = timm.create_model("kat_micro", num_classes=3)
    report = init_from_vit(model, source)
    assert report.fresh == ["head.weight", "head.bias"]
    assert report.moved is None
    for name, value in source.state_dict().items():
        assert name in report.fresh or torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("name", ["kat_micro", "kat_glu_micro"])
def test_rationals_of_another_form_are_refused_both_ways_and_the_same_carried_over(name):
    plain, other = timm.create_model(name), timm.create_model(name, form="B")
    untouched(plain, "build it with form='B'", other)
    untouched(other, "build it with form='A'", plain)
    same = timm.create_model(name, form="B")
    init_from_vit(same, other)
    assert_equal(other.state_dict(), same.state_dict())


@pytest.mark.parametrize("blocks", [[], [0], [1, 3]])
def test_a_vit_gives_some_blocks_rationals(blocks):
    vit = timm.create_model("vit_micro")
    model = timm.create_model("kat_micro", grkan_blocks=blocks)
    report = init_from_vit(model, vit)
    assert len(report.half_widths) == len(blocks)
    assert report.moved is not None
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model(images), vit(images), atol=0.02)
    init_from_vit(timm.create_model("kat_micro", grkan_blocks=blocks), model)


def test_a_model_with_another_activation_than_the_source_is_refused():
    vit = timm.create_model("vit_micro", act_layer="silu")
    message = "is SiLU, and the model's GELU: build it with the act_layer of the source"
    untouched(timm.create_model("vit_micro"), message, vit)
    model = timm.create_model("vit_micro", act_layer="silu")
    init_from_vit(model, vit)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), vit.eval()(images))


def test_weights_that_are_not_finite_are_refused():
    broken = timm.create_model("vit_micro")
    broken.head.bias.data[2] = float("nan")
    untouched(timm.create_model("kat_micro"), r"not finite: head\.bias", broken)


def test_sources_that_do_not_fit_leave_the_model_unchanged(tmp_path):
    model = timm.create_model("kat_micro")
    untouched(model, "missing.*blocks.2.norm1.weight", timm.create_model("vit_micro", depth=2))
    heads = "has num_heads=2 and the model 4; build it with num_heads=2"
    untouched(model, heads, timm.create_model("vit_micro", num_heads=2))
    scaled = timm.create_model("vit_micro", init_values=1.0)
    untouched(model, r"which needs \{'init_values': 1e-05\}, .*8 unexpected", scaled)
    untouched(model, "is a ResNet, not a Vision Transformer", timm.create_model("resnet18"))
    resnet = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(2)}, resnet)
    untouched(model, "does not hold a ViT in timm's layout: its entries are conv1", str(resnet))
    untouched(model, "unknown model or file 'vit_micr'", "vit_micr")


def facebook_dinov2(vit: nn.Module) -> dict[str, torch.Tensor]:
    """DINOv2 with registers, by its authors' names."""
    state = dict(vit.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    first = torch.full((1, 1, vit.embed_dim), 0.3)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - first
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    return state


def test_the_authors_own_names(tmp_path):
    args = {"patch_size": 14, "img_size": 42, "depth": 2}
    vit = trained(timm.create_model("vit_small_patch14_reg4_dinov2", **args))
    torch.save(facebook_dinov2(vit), tmp_path / "vit.pth")
    # Nothing in the file names these.
    needs = {"init_values": 1e-5, "no_embed_class": True, "reg_tokens": 4}
    model, _, report = convert_vit(
        tmp_path / "vit.pth", "kat_small_patch16_224", args={**args, **needs}
    )
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == ["mask_token"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_without_a_record(tmp_path, suffix):
    vit = trained(timm.create_model("vit_micro"))
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": {f"module.{k}": v for k, v in vit.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(vit.state_dict(), path)
    model = timm.create_model("kat_micro").eval()
    init_from_vit(model, str(path))
    assert max(distance(model, vit)) <= 1e-2


def test_an_npz_file_is_read_by_timm(tmp_path):
    with pytest.raises(InputError, match="give the name"):
        read_vit(tmp_path / "Ti_16.npz")
