"""Costs by counting, against arithmetic by hand and the authors' figures."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.layers import Attention
from torch import nn

import kat
from kat.analysis import count
from kat.analysis.cost.flops import FixedBoxes, Terms, countable
from kat.analysis.cost.tables import PUBLISHED
from kat.models import create_model
from tests.hooks import global_forward_hooks


@pytest.mark.parametrize("degree", [(5, 4), (3, 2), (1, 0)])
def test_a_layer_costs_what_the_paper_says(degree):
    """(2m + 2n + 3) d_in for the rational and 2 d_in d_out for the matrix, of one token."""
    m, n = degree
    cost = count(kat.GRKANLinear(64, 10, degree=degree, init="tanh"), (64,))
    assert cost.flops == (2 * m + 2 * n + 3) * 64 + 2 * 64 * 10
    assert cost.multiply_adds == 64 * 10
    assert cost.parameters == 64 * 10 + 10 + (m + 1 + n * 8)


def test_a_kat_costs_its_vit_and_21_for_each_element_of_a_rational():
    model, vit = (timm.create_model(f"{f}_tiny_patch16_224") for f in ("kat", "vit"))
    extra = 12 * 197 * (192 + 768) * 21
    assert count(model, (3, 224, 224)).flops - count(vit, (3, 224, 224)).flops == extra


@pytest.mark.parametrize("packed", [False, True])
def test_a_gated_mlp_costs_its_maps_and_its_rational(packed):
    cost = count(kat.GatedGRKANMlp(64, 128, packed=packed), (10, 64))
    gate = 64 if packed else 128
    assert cost.terms.rational == 10 * gate * 21
    assert cost.flops == 10 * gate * 21 + 2 * 10 * 64 * 3 * gate


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_tiny_patch16_224", {"qk_norm": True, "depth": 2, "reg_tokens": 4}),
        ("kat_micro", {"num_groups": 16, "degree": (7, 6), "form": "B", "share": "none"}),
        ("kat_glu_micro", {"degree": (3, 2)}),
        ("resnet18", {}),
        ("mobilenetv3_small_050", {}),  # grouped convolutions
    ],
)
def test_every_layer_has_the_products_of_its_weight(name, args):
    side = timm.get_pretrained_cfg(name).input_size[-1]
    model = timm.create_model(name, **args)
    for layer, module in zip(count(model, (3, side, side)).layers, model.modules(), strict=True):
        found = layer.terms
        if isinstance(module, nn.Linear | nn.Conv2d) and layer.output_shape:
            assert found.weights == math.prod(layer.output_shape) * module.weight[0].numel()
        elif isinstance(module, kat.GroupRational) and layer.input_shape:
            m, n = module.degree
            assert found.rational == math.prod(layer.input_shape) * (2 * m + 2 * n + 3)
        elif isinstance(module, Attention):
            tokens, width = layer.input_shape
            assert found.attention == 2 * tokens**2 * width
        elif isinstance(module, nn.LayerNorm):
            assert found == Terms(norm=5 * math.prod(layer.input_shape))


def test_transposed_convolutions():
    layer = nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)
    assert count(layer, (6, 5, 5)).terms == Terms(weights=6 * 25 * (4 // 2) * 9)


def test_a_detector_costs_a_fixed_number_of_boxes():
    model = create_model(
        "kat_det_micro", num_classes=3, img_size=64, embed_dim=48, depth=2, global_blocks=[1],
        channels=16, rcnn={"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20},
    )  # fmt: skip
    assert isinstance(countable(model), FixedBoxes)
    cost = count(model, (3, 64, 64))
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    macs = {layer.name: layer.terms.multiply_adds for layer in cost.layers}
    assert macs["roi_heads.box_predictor.cls_score"] == 20 * 256 * 4
    assert macs["roi_heads.mask_predictor.mask_fcn_logits"] == 100 * 28 * 28 * 16 * 4
    assert macs["rpn.head.cls_logits"] == (16**2 + 8**2 + 4**2 + 2**2) * 16 * 3


def _vit_by_hand(width: int, tokens: int, depth: int) -> dict[str, int]:
    """Multiply-adds of a ViT/16 of 3x224x224 images and 1000 classes, MLP ratio 4."""
    per_token = width * 3 * width + width * width + 2 * width * 4 * width
    embedding, head = (tokens - 1) * 16 * 16 * 3 * width, width * 1000
    return {
        "weights": depth * tokens * per_token + embedding + head,
        "attention": depth * 2 * tokens**2 * width,
        "norms": (2 * depth + 1) * tokens * width,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("size", "width"), [("tiny", 192), ("small", 384), ("base", 768)])
@pytest.mark.parametrize("family", ["vit", "kat"])
def test_the_papers_table_to_its_printed_digits(family, size, width):
    name = f"{family}_{size}_patch16_224"
    cost = count(timm.create_model(name, weight_init="skip"), (3, 224, 224))
    hand = _vit_by_hand(width, tokens=197, depth=12)
    rationals = 12 * 197 * 5 * width * 21 if family == "kat" else 0
    assert cost.multiply_adds == hand["weights"] + hand["attention"]
    assert cost.flops == 2 * cost.multiply_adds + rationals
    assert cost.terms.paper == hand["weights"] + 5 * hand["norms"] + rationals
    rounded = f"{cost.parameters / 1e6:.1f}", f"{cost.terms.paper / 1e9:.2f}"
    assert rounded == PUBLISHED[name]


class _Twice(nn.Module):
    """Its own product, and one layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))
        self.alias = self.inner

    def forward(self, x):
        return self.inner(self.alias(x)) @ torch.ones(4, 3, device=x.device)


def test_work_belongs_to_the_innermost_layer_that_does_it():
    cost = count(_Twice(), (5, 4))
    by_name = {layer.name: layer for layer in cost.layers}
    assert list(by_name) == ["", "inner", "inner.0"]
    assert [layer.terms.multiply_adds for layer in cost.layers] == [5 * 4 * 3, 0, 2 * 5 * 4 * 4]
    assert [layer.parameters for layer in cost.layers] == [0, 0, 20]
    assert (by_name[""].input_shape, by_name[""].output_shape) == ((5, 4), (5, 3))


def test_frozen_parameters_count_and_shared_ones_count_once():
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    first.weight.requires_grad_(False)
    cost = count(nn.Sequential(first, second), (4,))
    assert [layer.parameters for layer in cost.layers] == [0, 16, 0]


def test_counting_leaves_the_model_as_it_is():
    model = timm.create_model("kat_micro")
    count(model, (3, 32, 32))
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    with pytest.raises(AssertionError, match="Input height"):
        count(model, (3, 16, 16))
    assert global_forward_hooks() == 0
