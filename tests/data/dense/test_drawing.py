"""What is drawn on images, against torchvision's own drawing."""

from __future__ import annotations

import torch
from torchvision.utils import draw_segmentation_masks

from kat.data.dense.drawing import caption_factor, draw_mask, draw_objects, palette


def test_classes_are_laid_over_the_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 9, 7), generator=generator).to(torch.uint8)
    mask = torch.randint(4, (9, 7), generator=generator)
    mask[0] = 255
    masks = torch.stack([mask == index for index in range(5)])
    expected = draw_segmentation_masks(image, masks, alpha=0.5, colors=palette(5))
    for values in (mask, mask.to(torch.uint8)):
        assert torch.equal(draw_mask(image, values, 5), expected)
    assert torch.equal(draw_mask(image, mask, 5)[:, 0], image[:, 0])


def test_objects_on_a_small_image_are_drawn_larger():
    """Each pixel becomes 4 by 4: only where the mask is, off the box's lines, has it changed."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 100, 120), generator=generator).to(torch.uint8)
    mask = torch.zeros(1, 100, 120, dtype=torch.bool)
    mask[0, 40:60, 50:90] = True
    labels = torch.tensor([1])
    boxes = torch.tensor([[50.0, 40, 89, 59]])
    drawn = draw_objects(image, boxes, labels, mask, [""], 3, caption_factor(image))
    assert drawn.shape == (3, 400, 480)
    expected = draw_segmentation_masks(image, mask, alpha=0.5, colors=palette(3)[1])
    centres = drawn[:, 2::4, 2::4]
    assert torch.equal(centres[:, 42:58, 52:88], expected[:, 42:58, 52:88])
    assert torch.equal(centres[:, :39], image[:, :39])
    assert caption_factor(drawn) == 1
    assert draw_objects(image, boxes, labels, mask, [""], 3).shape == image.shape


def test_an_image_without_objects_is_drawn_too():
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 500, 400).bool()
    image = torch.full((3, 500, 400), 7, dtype=torch.uint8)
    assert torch.equal(draw_objects(image, *none, [], 3), image)
