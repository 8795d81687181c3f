"""The names of the authors' katransformer.py. Their own code is compared in test_peers.py."""

from __future__ import annotations

import pytest
import timm
import torch

import kat
import kat.compat
from kat.errors import InputError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 4}


def test_a_model_as_public_code_builds_it():
    from katransformer import KAN, KATVisionTransformer

    assert isinstance(timm.create_model("kat_tiny_patch16_224", **SMALL), kat.models.KAT)
    more = {"mlp_layer": KAN, "act_layer": kat.compat.KAT_Group, "weight_init": "kan_mimetic"}
    model = KATVisionTransformer(**SMALL, **more, num_classes=3, drop_path_rate=0.1)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)
    assert model.blocks[0].mlp.act2.init == "gelu"  # the authors' default; kat's is swish
    with pytest.raises(InputError, match="mlp_layer"):
        KATVisionTransformer(**SMALL, mlp_layer=timm.layers.Mlp)


def test_a_layer_has_the_widths_that_its_groups_divide():
    from katransformer import KAN

    mlp = KAN(64, 128, drop=0.1, act_init="swish")
    assert mlp.fc1.weight.abs().max() <= 64**-0.5  # as nn.Linear draws them
    with pytest.raises(ValueError, match="num_groups=8, but by 1, 2, 4, 5"):
        KAN(100)
