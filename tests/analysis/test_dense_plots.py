"""What is drawn on images, against torchvision's own drawing."""

from __future__ import annotations

import torch
from torchvision.utils import draw_segmentation_masks

from kat.analysis.dense_plots import colours, draw_mask


def test_classes_are_laid_over_the_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 9, 7), generator=generator).to(torch.uint8)
    mask = torch.randint(4, (9, 7), generator=generator)
    mask[0] = 255
    masks = torch.stack([mask == index for index in range(5)])
    expected = draw_segmentation_masks(image, masks, alpha=0.5, colors=colours(5))
    for values in (mask, mask.to(torch.uint8)):
        assert torch.equal(draw_mask(image, values, 5), expected)
    assert torch.equal(draw_mask(image, mask, 5)[:, 0], image[:, 0])
