"""Drawing on images, against torchvision's own drawing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torchvision.utils import draw_segmentation_masks

from kat.data.dense.drawing import (
    caption_factor,
    draw_classes,
    draw_mask,
    draw_objects,
    palette,
    palette_image,
)


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
    objects = {"boxes": torch.tensor([[50.0, 40, 89, 59]]), "masks": mask}
    drawn = draw_objects(image, objects, [""], caption_factor(image))
    assert drawn.shape == (3, 400, 480)
    expected = draw_segmentation_masks(image, mask, alpha=0.5, colors=palette(1))
    centres = drawn[:, 2::4, 2::4]
    assert torch.equal(centres[:, 42:58, 52:88], expected[:, 42:58, 52:88])
    assert torch.equal(centres[:, :39], image[:, :39])
    assert caption_factor(drawn) == 1
    none = {"boxes": torch.zeros(0, 4)}
    assert torch.equal(draw_objects(image, none, []), image)


@pytest.mark.parametrize("box", [(50, 100, 200, 300), (370, 0, 399, 60), (0, 380, 40, 399)])
def test_captions_are_on_plates_of_their_colors_within_the_image_and_none_over_another(box):
    image = torch.full((3, 400, 400), 128, dtype=torch.uint8)
    objects = {"boxes": torch.tensor([box, box]).float()}
    texts = (["", ""], ["a name 0.87", ""], ["a name 0.87", "a name 0.87"])
    pictures = [draw_objects(image, objects, captions) for captions in texts]
    changed = [(before != after).any(0) for before, after in pairwise(pictures)]
    for picture, where, color in zip(pictures[1:], changed, palette(2), strict=True):
        plate = picture[:, where].T
        assert (plate == torch.tensor(color)).all(1).float().mean() > 0.4
        assert ((plate.sum(1) == 0) | (plate.sum(1) == 765)).any()  # the text: black or white
    one, other = changed
    assert _extent(one) == pytest.approx(_extent(other), abs=2)  # whole, beside the border too
    height, width = _extent(one)
    assert height > 12
    assert width > 80
    assert not (one & other).any()


def _extent(changed):
    """The height and the width of what has changed."""
    return [int(changed.any(axis).nonzero().flatten().diff().sum()) for axis in (1, 0)]


def test_classes_have_a_legend_and_masks_have_their_colors():
    image = torch.zeros(3, 420, 400, dtype=torch.uint8)
    mask = torch.zeros(420, 400, dtype=torch.long)
    mask[:200], mask[0] = 2, 255
    names = ["sky", "road", "a class with a long name"] * 30
    drawn = draw_classes(image, mask, names)
    assert torch.equal(drawn[:, :420], draw_mask(image, mask, 90))
    assert _in_legend(drawn) == [0, 2]
    stored = palette_image(mask, 90)
    assert (np.asarray(stored) == mask.numpy()).all()
    assert stored.convert("RGB").getpixel((5, 5)) == palette(90)[2]


def _in_legend(drawn):
    """The classes with a plate of their color below an image of 420 rows."""
    legend = drawn[:, 420:].flatten(1).T
    shown = [int((legend == torch.tensor(color)).all(1).sum()) for color in palette(90)]
    return [index for index, count in enumerate(shown) if count > 100]
