"""UperNet: shapes, norms, training, and timm's interface."""

from __future__ import annotations

import pytest
import torch
from timm.layers import LayerNorm2d
from timm.optim import param_groups_layer_decay

import kat
from kat.models import create_model
from kat.models.dense.upernet import UperHead

SMALL = {"img_size": 64, "depth": 4, "global_blocks": [3], "channels": 16, "auxiliary": 8}


def upernet(name: str = "kat_upernet_micro", **kwargs):
    torch.manual_seed(0)
    return create_model(name, **{**SMALL, **kwargs})


@pytest.mark.parametrize("name", ["kat_upernet_micro", "vit_upernet_micro"])
@pytest.mark.parametrize("size", [(64, 64), (50, 83), (8, 8)])
def test_logits_have_the_size_of_the_images(name, size):
    model = upernet(name, num_classes=5).eval()
    images = torch.randn(2, 3, *size)
    assert model.task == "segmentation"
    assert model(images).shape == (2, 5, *size)
    logits, auxiliary = model.train()(images)
    assert logits.shape == auxiliary.shape == (2, 5, *size)


@pytest.mark.parametrize(("norm", "same"), [("layer", True), ("batch", False)])
def test_with_layer_norm_images_of_a_batch_are_independent(norm, same):
    model = upernet(norm=norm, drop=0.0).train()
    images = torch.randn(3, 3, 64, 64)
    few, many = model(images[:2])[0], model(images)[0]
    assert torch.allclose(few, many[:2], atol=1e-5) == same


def test_it_learns_to_segment():
    model = upernet(num_classes=2).train()
    optimizer = torch.optim.AdamW(kat.param_groups(model, lr=2e-3))
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, 64, 64, dtype=torch.long)
    labels[:, :, 40:] = 1
    labels[2:] = labels[:2].transpose(1, 2)
    losses = []
    for _ in range(12):
        noise = torch.randn(4, 3, 64, 64, generator=generator)
        logits, auxiliary = model(noise + 2 * labels[:, None])
        loss = sum(torch.nn.functional.cross_entropy(x, labels) for x in (logits, auxiliary))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_finest_map_of_the_head_has_all_coarser_ones_in_it():
    head = UperHead([12] * 4, 8, 3, LayerNorm2d, drop=0.0)
    maps = [torch.randn(1, 12, side, side, requires_grad=True) for side in (48, 24, 12, 6)]
    with torch.no_grad():
        head.fuse[0].weight[:, 8:] = 0  # only reads the finest
    head(maps)[0, 0, 0, 0].backward()
    assert all(x.grad.abs().max() > 0 for x in maps)
    assert not maps[0].grad[..., 9:, 9:].any()  # seen from a corner,
    assert (maps[3].grad.abs().sum(1) > 0).all()  # but pooling sees everything


def test_layers_decay_from_the_head_to_the_embeddings():
    model = upernet(relative_position=True)
    spared = model.no_weight_decay()
    groups = param_groups_layer_decay(model, 0.05, spared, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    vit = "backbone.body.vit."
    assert found[f"{vit}pos_embed"] == (0.5**5, 0)
    assert found[f"{vit}patch_embed.proj.weight"] == (0.5**5, 0.05)
    assert found[f"{vit}blocks.0.mlp.fc1.weight"] == (0.5**4, 0.05)
    assert found[f"{vit}blocks.0.mlp.act1.weight_denominator"] == (0.5**4, 0)
    assert found["backbone.body.attention.0.rel_pos_h"] == (0.5**4, 0)
    assert found[f"{vit}norm.weight"][0] == found[f"{vit}blocks.3.norm1.weight"][0] == 0.5
    assert found["backbone.neck.levels.0.0.weight"] == (1, 0.05)
    assert found["head.classify.weight"] == (1, 0.05)


def test_gradient_checkpointing_is_passed_on_and_every_parameter_trained():
    model = upernet().train()
    model.set_grad_checkpointing()
    assert model.backbone.body.grad_checkpointing
    logits, auxiliary = model(torch.randn(2, 3, 64, 64))
    (logits.square().mean() + auxiliary.square().mean()).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
