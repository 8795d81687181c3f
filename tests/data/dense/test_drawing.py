"""Drawing on images, against torchvision's own drawing."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
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
    labels = torch.tensor([1])
    objects = {"boxes": torch.tensor([[50.0, 40, 89, 59]]), "labels": labels, "masks": mask}
    drawn = draw_objects(image, objects, [""], 3, caption_factor(image))
    assert drawn.shape == (3, 400, 480)
    expected = draw_segmentation_masks(image, mask, alpha=0.5, colors=palette(3)[1])
    centres = drawn[:, 2::4, 2::4]
    assert torch.equal(centres[:, 42:58, 52:88], expected[:, 42:58, 52:88])
    assert torch.equal(centres[:, :39], image[:, :39])
    assert caption_factor(drawn) == 1
    none = {"boxes": torch.zeros(0, 4), "labels": labels[:0]}
    assert torch.equal(draw_objects(image, none, [], 3), image)


@pytest.mark.parametrize("label", [0, 4])
@pytest.mark.parametrize("box", [(50, 100, 200, 300), (370, 0, 399, 60), (0, 380, 40, 399)])
def test_a_caption_is_on_a_plate_of_its_class_within_the_image(label, box):
    image = torch.full((3, 400, 400), 128, dtype=torch.uint8)
    objects = {"boxes": torch.tensor([box]).float(), "labels": torch.tensor([label])}
    plain, drawn = (draw_objects(image, objects, [text], 6) for text in ("", "a name 0.87"))
    changed = (plain != drawn).any(0)
    rows, columns = (changed.any(axis).nonzero() for axis in (1, 0))
    # The whole text has room: some 80 by 12 pixels beside the border.
    assert columns.max() - columns.min() > 60
    assert rows.max() - rows.min() > 8
    colors = drawn[:, changed].T
    assert (colors == torch.tensor(palette(6)[label])).all(1).float().mean() > 0.4
    assert ((colors.sum(1) == 0) | (colors.sum(1) == 765)).any()  # the text is black or white


def test_classes_have_a_legend_and_masks_have_their_colors():
    image = torch.zeros(3, 420, 400, dtype=torch.uint8)
    mask = torch.zeros(420, 400, dtype=torch.long)
    mask[:200], mask[0] = 2, 255
    drawn = draw_classes(image, mask, ["sky", "road", "a class with a long name"] * 30)
    assert torch.equal(drawn[:, :420], draw_mask(image, mask, 90))
    legend = drawn[:, 420:].flatten(1).T
    shown = [int((legend == torch.tensor(color)).all(1).sum()) for color in palette(90)]
    assert [index for index, count in enumerate(shown) if count > 100] == [0, 2]
    with io.BytesIO() as file:
        palette_image(mask, 90).save(file, format="PNG")
        stored = Image.open(file)
        assert stored.mode == "P"
        assert (np.asarray(stored) == mask.numpy()).all()
        assert stored.convert("RGB").getpixel((5, 5)) == palette(90)[2]
