"""The KAT models: the official names, counts and initialization, and timm's interface."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_weight_decay

import kat
from kat.models import create_model, rational_parameter_names

OFFICIAL = {"tiny": 5_718_328, "small": 22_051_576, "base": 86_568_568}


def _rationals(depth: int) -> int:
    return depth * 2 * (6 + 8 * 4)


@pytest.mark.parametrize("size", OFFICIAL)
def test_parameter_counts_are_the_official_ones(size):
    model = timm.create_model(f"kat_{size}_patch16_224", device="meta")
    vit = timm.create_model(f"vit_{size}_patch16_224", device="meta")
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, vit)]
    assert counts == [OFFICIAL[size], OFFICIAL[size] - _rationals(12)]


def test_parameter_names_are_the_official_ones():
    state = timm.create_model("kat_tiny_patch16_224", device="meta").state_dict()
    vit = timm.create_model("vit_tiny_patch16_224", device="meta").state_dict()
    shapes = {"weight_numerator": (1, 6), "weight_denominator": (8, 4)}
    extra = {
        f"blocks.{block}.mlp.act{act}.{name}": shape
        for block in range(12)
        for act in (1, 2)
        for name, shape in shapes.items()
    }
    assert {name: tuple(t.shape) for name, t in state.items() if name not in vit} == extra
    assert set(vit) <= set(state)


@pytest.mark.parametrize("size", OFFICIAL)
@pytest.mark.parametrize("suffix", ["", "_swish", "_gelu"])
def test_every_official_name_is_registered(size, suffix):
    name = f"kat_{size}{suffix}_patch16_224"
    assert timm.is_model(name)
    assert timm.get_pretrained_cfg(name).crop_pct == 0.875
    model = timm.create_model(name, device="meta")
    assert model.blocks[3].mlp.act1.init == "identity"
    assert model.blocks[3].mlp.act2.init == ("gelu" if suffix == "_gelu" else "swish")


def test_initial_weights_are_variance_preserving_and_survive_timms_own_init():
    """The published code overwrites them with std 0.02."""
    torch.manual_seed(0)
    model = timm.create_model("kat_tiny_patch16_224")
    for block in model.blocks:
        assert block.mlp.fc1.weight.std().item() == pytest.approx(0.0722, rel=0.02)
        assert block.mlp.fc2.weight.std().item() == pytest.approx(0.0605, rel=0.02)
    value, proj = model.blocks[5].attn.qkv.weight[384:], model.blocks[5].attn.proj.weight
    assert (proj @ value).diag().mean().item() == pytest.approx(-0.4, abs=0.02)


def test_the_published_initialization_is_available_by_name():
    torch.manual_seed(0)
    model = timm.create_model("kat_micro", mlp_init="trunc_normal", attn_init="trunc_normal")
    for name, parameter in model.named_parameters():
        if name.endswith(("fc1.weight", "fc2.weight", "qkv.weight", "proj.weight")) and (
            "patch_embed" not in name
        ):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name


@pytest.mark.parametrize("packed", [False, True])
def test_a_gated_kat_has_the_parameters_of_a_kat_and_the_options_of_its_rationals(packed):
    options = {"num_groups": 4, "degree": (3, 2), "form": "B", "share": "none", "act_init": "gelu"}
    model = timm.create_model("kat_glu_micro", **options, packed=packed)
    act = model.blocks[2].mlp.act
    assert (act.num_groups, act.degree, act.form, act.share) == (4, (3, 2), "B", "none")
    assert act.init == "gelu"
    count, of_kat = (
        sum(p.numel() for p in each.parameters())
        for each in (timm.create_model("kat_glu_micro", packed=packed), create_model("kat_micro"))
    )
    assert count == pytest.approx(of_kat, rel=0.01)
    names = rational_parameter_names(model)
    assert len(names) == 4 * 2
    assert names <= model.no_weight_decay()


def test_no_weight_decay_covers_the_coefficients():
    model = timm.create_model("kat_micro")
    names = rational_parameter_names(model)
    assert len(names) == 4 * 2 * 2
    of_timm = VisionTransformer.no_weight_decay(model)
    assert {"pos_embed", "cls_token"} <= of_timm
    assert model.no_weight_decay() == names | of_timm
    decayed = param_groups_weight_decay(model, 0.05, True, model.no_weight_decay())
    by_id = {id(p): n for n, p in model.named_parameters()}
    kept = {by_id[id(p)] for group in decayed if group["weight_decay"] for p in group["params"]}
    assert not kept & names
    assert "blocks.0.mlp.fc1.weight" in kept


@pytest.fixture
def micro():
    torch.manual_seed(0)
    return timm.create_model("kat_micro").eval()


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_timms_interface(micro):
    model = timm.create_model("kat_micro", features_only=True, out_indices=(1, 3))
    assert [f.shape for f in model(IMAGES)] == [(2, 64, 8, 8)] * 2
    assert model.feature_info.channels() == [64, 64]
    dynamic = timm.create_model("kat_micro", dynamic_img_size=True)
    assert dynamic(torch.randn(2, 3, 48, 40)).shape == (2, 10)
    final, intermediates = micro.forward_intermediates(IMAGES, indices=[0, 2])
    assert [t.shape for t in intermediates] == [(2, 64, 8, 8)] * 2
    torch.testing.assert_close(micro.forward_head(final), micro(IMAGES))
    micro.reset_classifier(7)
    micro.set_input_size(img_size=(16, 24))
    assert micro(torch.randn(1, 3, 16, 24)).shape == (1, 7)


def test_group_matcher_puts_every_rational_into_its_block(micro):
    groups = timm.models.group_parameters(micro, micro.group_matcher())
    for name in rational_parameter_names(micro):
        block = int(name.split(".")[1])
        mates = next(names for names in groups.values() if name in names)
        assert f"blocks.{block}.norm1.weight" in mates


@pytest.mark.slow
def test_compiled_model_gives_the_same_logits(micro):
    compiled = torch.compile(micro, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), micro(IMAGES))


def test_one_step_of_training_moves_every_parameter(micro):
    before = {n: p.detach().clone() for n, p in micro.named_parameters()}
    optimizer = torch.optim.AdamW(kat.param_groups(micro, lr=1e-3))
    torch.nn.functional.cross_entropy(micro(IMAGES), torch.tensor([1, 2])).backward()
    optimizer.step()
    still = [n for n, p in micro.named_parameters() if torch.equal(p, before[n])]
    assert not still
