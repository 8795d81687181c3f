"""Trained ViTs made into KATs. timm's own models, with random weights in realistic sizes, are the
sources, and what they compute is the measure."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import kat
from kat.errors import InputError
from kat.models import convert_vit, init_from_vit, read_vit, save_model
from tests.records import RECORD

SMALL = {"img_size": 48, "depth": 2}
TINY = "kat_tiny_patch16_224"


def trained(model: nn.Module, spread: float = 1.2, seed: int = 0) -> nn.Module:
    """Weights as if trained: pre-activations of about this spread, attention that differs from
    token to token, MLPs that change the stream, position embeddings, and logits of about 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter.shape[-1]
        with torch.no_grad():
            if name.endswith("mlp.fc1.weight"):
                parameter.copy_(spread * fan_in**-0.5 * noise)
            elif parameter.ndim == 2 and "token" not in name:
                parameter.copy_(fan_in**-0.5 * noise)
            elif name.endswith("gamma"):
                parameter.copy_(0.5 + 0.1 * noise)
            elif name.endswith(("pos_embed", "token")):
                parameter.copy_(0.5 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
    return model.eval()


def images(model: nn.Module, seed: int = 5) -> torch.Tensor:
    """Other noise than that which the fit has seen."""
    size = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, model.in_chans, *size, generator=generator)


@torch.inference_mode()
def distance(model: nn.Module, vit: nn.Module) -> tuple[float, float]:
    """max and RMS of the difference of the logits, relative to the ViT's."""
    x = images(vit)
    expected = vit(x)
    off = model(x) - expected
    largest = off.abs().max() / expected.abs().max()
    return largest.item(), (off.square().mean() / expected.square().mean()).sqrt().item()


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
    "no biases": ("vit_tiny_patch16_224", {"qkv_bias": False, "proj_bias": False}),
    "norms inside": ("vit_tiny_patch16_224", {"qk_norm": True, "scale_mlp_norm": True}),
}


@pytest.mark.parametrize("case", VITS)
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


@pytest.mark.parametrize("spread", [0.5, 1.0, 1.5, 2.0])
def test_gelu_vits_move_by_no_more_than_a_hundredth_over_ranges_of_inputs(spread):
    vit = trained(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=12), spread)
    model, _, report = convert_vit(vit, TINY, args={"img_size": 64})
    largest, rms = distance(model, vit)
    assert max(largest, rms) <= 1e-2
    assert report.moved.rms == pytest.approx(rms, rel=0.3)  # of other images, hence not the same
    assert report.moved.max == pytest.approx(largest, rel=0.6)


def test_a_higher_degree_follows_far_more_closely():
    vit = trained(timm.create_model("vit_tiny_patch16_224", **SMALL))
    model, _, report = convert_vit(vit, TINY, args={**SMALL, "degree": [9, 8]})
    assert max(distance(model, vit)) <= 3e-4
    assert report.fit_error <= 1e-4


@pytest.mark.parametrize("activation", ["silu", "quick_gelu", "relu"])
def test_act2_is_fitted_to_the_sources_own_activation(activation):
    vit = trained(timm.create_model("vit_tiny_patch16_224", act_layer=activation, **SMALL))
    model, *_ = convert_vit(vit, TINY, args=SMALL)
    limit = 5e-2 if activation == "relu" else 1e-2  # a kink is no rational's strength
    assert max(distance(model, vit)) <= limit
    # A bare file does not say, and GELU is assumed, unless one says so.
    silent = read_vit(vit)
    silent = type(silent)(silent.name, silent.weights, classes=silent.classes)
    told, *_ = convert_vit(silent, TINY, args=SMALL, activation=activation)
    assert max(distance(told, vit)) <= limit
    assumed, *_ = convert_vit(silent, TINY, args=SMALL)
    assert distance(assumed, vit)[1] > 3 * distance(told, vit)[1]


def test_a_distillation_token_is_carried_as_a_register_and_its_head_dropped():
    vit = trained(timm.create_model("deit_tiny_distilled_patch16_224", **SMALL))
    model, record, report = convert_vit(vit, TINY, args=SMALL)
    assert record.args["reg_tokens"] == 1
    assert report.dropped == ["head_dist.weight", "head_dist.bias"]
    vit.forward_head = lambda x: vit.head(x[:, 0])  # the class token's logits alone
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


def facebook_dinov2(vit: nn.Module) -> dict[str, torch.Tensor]:
    """DINOv2 with registers as its authors name it."""
    state = dict(vit.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    first = torch.full((1, 1, vit.embed_dim), 0.3)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - first
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    return state


def facebook_deit3(vit: nn.Module) -> dict[str, torch.Tensor]:
    """DeiT III as its authors name it."""
    state = vit.state_dict()
    return {
        "model": {
            name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
            for name, value in state.items()
        }
    }


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("vit_small_patch14_reg4_dinov2", facebook_dinov2),
        ("deit3_small_patch16_224", facebook_deit3),
    ],
)
def test_the_authors_own_names(tmp_path, name, rename):
    args = {"patch_size": 14, "img_size": 42} if "dinov2" in name else {"img_size": 48}
    vit = trained(timm.create_model(name, depth=2, **args))
    torch.save(rename(vit), tmp_path / "vit.pth")
    model, record, report = convert_vit(
        tmp_path / "vit.pth", "kat_small_patch16_224", args={**args, "depth": 2}
    )
    assert record.args["init_values"] == 1e-5
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == (["mask_token"] if "dinov2" in name else [])


def google_npz(vit: VisionTransformer, prefix: str = "") -> dict[str, np.ndarray]:
    """A ViT as Google's JAX files have it."""
    state = {name: value.numpy() for name, value in vit.state_dict().items()}
    heads, width = vit.blocks[0].attn.num_heads, vit.embed_dim
    split = (heads, width // heads)
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": np.zeros((width, width), np.float32),
    }
    for index in range(len(vit.blocks)):
        at, to = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{to}/{name}/scale"] = state[f"{at}.{norm}.weight"]
            arrays[f"{to}/{name}/bias"] = state[f"{at}.{norm}.bias"]
        attention = f"{to}/MultiHeadDotProductAttention_1"
        weights = np.split(state[f"{at}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{at}.attn.qkv.bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(width, *split)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(split)
        arrays[f"{attention}/out/kernel"] = state[f"{at}.attn.proj.weight"].T.reshape(*split, width)
        arrays[f"{attention}/out/bias"] = state[f"{at}.attn.proj.bias"]
        for layer in (0, 1):
            dense = f"{to}/MlpBlock_3/Dense_{layer}"
            arrays[f"{dense}/kernel"] = state[f"{at}.mlp.fc{layer + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{at}.mlp.fc{layer + 1}.bias"]
    return {f"{prefix}{name}": value for name, value in arrays.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_googles_npz(tmp_path, prefix):
    vit = trained(timm.create_model("vit_tiny_patch16_224", **SMALL, num_classes=21))
    np.savez(tmp_path / "Ti_16.npz", **google_npz(vit, prefix))
    model, record, report = convert_vit(tmp_path / "Ti_16.npz", TINY, args=SMALL)
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == [f"{prefix}pre_logits/kernel"]
    assert (record.mean, record.std, record.crop_pct) == ((0.5,) * 3, (0.5,) * 3, 0.9)
    assert read_vit(tmp_path / "Ti_16.npz").num_heads == 3


def test_damaged_npz_files_are_named(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL)
    arrays = google_npz(vit)
    missing = {k: v for k, v in arrays.items() if "encoderblock_1/MlpBlock" not in k}
    np.savez(tmp_path / "missing.npz", **missing)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    np.savez(tmp_path / "code.npz", **{**arrays, "head/bias": np.array([print])})
    np.savez(tmp_path / "cut.npz", **arrays)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("missing", "foreign", "code", "cut", "empty"):
        with pytest.raises(
            InputError, match=r"not a ViT of Google's in \.npz format, or not compl"
        ):
            read_vit(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match=r"none\.npz does not exist"):
        read_vit(tmp_path / "none.npz")


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


def test_a_folder_gives_activation_preprocessing_and_class_names(tmp_path):
    record = replace(
        RECORD, architecture="vit_micro", args={"act_layer": "silu"}, classes=["cat", "dog"],
        input_size=(1, 32, 32), mean=(0.3,), std=(0.4,), interpolation="bilinear", crop_pct=0.9,
    )  # fmt: skip
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


def test_an_act_init_that_is_asked_for_is_kept():
    vit = trained(timm.create_model("vit_micro"))
    model, _, report = convert_vit(vit, "kat_micro", args={"act_init": "swish"})
    fresh = timm.create_model("kat_micro")
    for block, other in zip(model.blocks, fresh.blocks, strict=True):
        assert torch.equal(block.mlp.act2.weight_numerator, other.mlp.act2.weight_numerator)
    assert report.activation is None
    assert report.moved.rms > 1e-2


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


RATIONALS = {"form": "B", "degree": [4, 3], "num_groups": 4, "share": "none"}


def test_a_kat_of_a_kat_has_its_rationals_arguments_and_computes_the_same(tmp_path):
    source = trained(timm.create_model("kat_micro", act_init="gelu", **RATIONALS))
    model, record, _ = convert_vit(source, "kat_micro")
    assert {name: record.args[name] for name in RATIONALS} == RATIONALS
    x = images(source)
    assert torch.equal(model(x), source(x))
    save_model(source, record, tmp_path)
    again, *_ = convert_vit(tmp_path, "kat_micro")
    assert torch.equal(again(x), source(x))


def test_rationals_of_another_form_are_refused():
    source = timm.create_model("kat_micro", form="B")
    untouched(timm.create_model("kat_micro"), "build it with form='B'", source)
    with pytest.raises(InputError, match="have form='B' and the model's 'A'"):
        convert_vit(source, "kat_micro", args={"form": "A"})
    untouched(timm.create_model("kat_micro", form="B"), "a KAT with", source, activation="gelu")


def test_an_activation_that_is_not_the_sources_is_refused():
    vit = timm.create_model("vit_micro", act_layer="silu")
    model = timm.create_model("kat_micro")
    untouched(model, "is SiLU, not 'gelu'; leave", vit, activation="gelu")
    assert init_from_vit(model, vit, activation="swish").activation == "SiLU"


def test_weights_and_outputs_that_are_not_finite_are_refused():
    for value in (float("nan"), float("inf")):
        for name in ("vit_micro", "kat_micro"):
            broken = timm.create_model(name)
            broken.head.bias.data[2] = value
            untouched(timm.create_model("kat_micro"), r"not finite, 1 tensors .*head\.bias", broken)
    large = timm.create_model("vit_micro")
    large.head.bias.data.fill_(3e38)
    large.norm.bias.data.fill_(3e38)
    large.head.weight.data.fill_(1)
    untouched(timm.create_model("kat_micro"), "source's outputs are not finite", large)


def test_outputs_that_are_all_zero_have_not_moved():
    vit = timm.create_model("vit_micro")
    vit.head.weight.data.zero_()
    report = init_from_vit(timm.create_model("kat_micro"), vit)
    assert (report.moved.max, report.moved.rms) == (0, 0)


def test_images_that_are_given_set_the_range_of_the_fit():
    vit = trained(timm.create_model("vit_micro"))
    with torch.no_grad():
        for block in vit.blocks:  # fc1 sees the stream itself, and large images make large inputs
            block.norm2 = nn.Identity()
    vit.blocks[0].mlp.fc1.bias.data += 9
    found = kat.models.conversion.activation_fit.half_widths(vit, images(vit))
    assert found[0] == 10
    assert kat.models.conversion.activation_fit.half_widths(vit, 1e4 * images(vit)) == [10] * 4


def untouched(model: nn.Module, message: str, source: object, **options: object) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message):
        init_from_vit(model, source, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_sources_that_do_not_fit_leave_the_model_as_it_was(tmp_path):
    model = timm.create_model("kat_micro")
    wide = timm.create_model("vit_micro", embed_dim=32, num_heads=4)
    untouched(model, r"another model: \d+ of another shape \(cls_token \(1, 1, 32\) for", wide)
    untouched(model, "missing.*blocks.2.norm1.weight", timm.create_model("vit_micro", depth=2))
    untouched(model, "has 2 heads and the model 4", timm.create_model("vit_micro", num_heads=2))
    scaled = timm.create_model("vit_micro", init_values=1.0)
    needs = r"8 unexpected .*needs a model with \{'init_values': 1e-05\}"
    untouched(model, needs, scaled)
    untouched(model, "unknown activation 'gulu'", timm.create_model("vit_micro"), activation="gulu")
    broken = timm.create_model("vit_micro")
    broken.blocks[1].mlp.fc1.weight.data[0, 0] = float("nan")
    untouched(model, "not finite", broken)
    untouched(model, "is a ResNet, not a Vision Transformer", timm.create_model("resnet18"))
    glu = timm.create_model("vit_micro", mlp_layer=timm.layers.SwiGLU)
    untouched(model, "another model: .*fc1_g", glu)
    resnet = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(2)}, resnet)
    untouched(model, "does not hold a ViT in timm's layout: its 1 entries are conv1", str(resnet))
    untouched(model, r"nor is there a file of this name.*'vit_micr'", "vit_micr")
    with pytest.raises(InputError, match="a ResNet cannot start from a ViT"):
        init_from_vit(timm.create_model("resnet18"), broken)


def test_models_that_are_no_kats_are_refused():
    vit = timm.create_model("vit_micro")
    with pytest.raises(InputError, match="unknown model 'kat_mikro'; did you mean 'kat_micro'"):
        convert_vit(vit, "kat_mikro")
    with pytest.raises(InputError, match=r"'vit_micro' is a ViT; give .* a KAT"):
        convert_vit(vit, "vit_micro")
