"""The range that the activation is fitted on."""

from __future__ import annotations

import timm
import torch
from torch import nn

from kat.models.conversion.activation_fit import half_widths
from tests.models.conversion.vits import images, trained


def test_the_images_determine_the_range_of_the_fit():
    vit = trained(timm.create_model("vit_micro"))
    with torch.no_grad():
        for block in vit.blocks:  # fc1 sees the stream itself, and large images make large inputs
            block.norm2 = nn.Identity()
    vit.blocks[0].mlp.fc1.bias.data += 9
    found = half_widths(vit, images(vit))
    assert found[0] == 10
    assert half_widths(vit, 1e4 * images(vit)) == [10] * 4
