"""The cost of detectors."""

from __future__ import annotations

import torch

from kat.analysis.cost.detection import FixedBoxes, countable
from kat.analysis.cost.flops import count
from kat.models import create_model


def test_costs_are_those_of_a_fixed_number_of_boxes():
    torch.manual_seed(0)
    model = create_model(
        "kat_det_micro",
        num_classes=3,
        img_size=64,
        embed_dim=48,
        depth=2,
        global_blocks=[1],
        channels=16,
        rcnn={"rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20},
    )
    assert isinstance(countable(model), FixedBoxes)
    cost = count(model, (3, 64, 64))
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.unexplained() == {}
    macs = {layer.name: layer.multiply_adds for layer in cost.layers}
    assert macs["roi_heads.box_predictor.cls_score"] == 20 * 256 * 4
    assert macs["roi_heads.mask_predictor.mask_fcn_logits"] == 100 * 28 * 28 * 16 * 4
    assert macs["rpn.head.cls_logits"] == (16**2 + 8**2 + 4**2 + 2**2) * 16 * 3
