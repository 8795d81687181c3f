"""The figure of attention: what is laid over which pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kat.analysis.figures.attention import draw_attention
from kat.analysis.inspect.attention import AttentionMaps

HEADS, PLACE = 3, (3, 1)


def _maps(images=2):
    """Maps of two blocks over 4 x 3 patches; all heads look at one patch alone."""
    heat = torch.zeros(images, HEADS, 4, 3)
    heat[:, :, *PLACE] = 0.25
    blocks = {"blocks.0.attn": heat, "blocks.1.attn": heat / 2}
    return AttentionMaps(blocks, heat.mean(1), 12, torch.zeros(images, 5))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_map_covers_the_pixels_of_its_patches(channels):
    pictures = torch.zeros(1, channels, 8, 6, dtype=torch.uint8)
    figure = draw_attention(pictures, ["black"], _maps(1))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3].sum(-1)  # from the bottom up
    axes = figure.axes[1]
    left, bottom, right, top = map(int, axes.get_window_extent().extents)
    bright = np.argwhere(pixels[bottom + 3 : top - 3, left + 3 : right - 3] > 300)
    y, x = bright.T + 3
    places = axes.transData.inverted().transform(np.column_stack([x + left, y + bottom]))
    low, high = places.min(0), places.max(0)
    assert low == pytest.approx([2, 6], abs=0.25)
    assert high == pytest.approx([4, 8], abs=0.25)


def test_panels_and_their_scale():
    pictures = torch.zeros(2, 1, 8, 6, dtype=torch.uint8)
    figure = draw_attention(pictures, ["a", "b"], _maps())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == 2 * ["", "rollout", "block 0", "block 1"]
    assert [part.get_suptitle() for part in figure.subfigs] == ["a", "b"]
    (bar,) = figure.axes[3].child_axes
    assert bar.get_xlim() == (0, 0.125)
    assert [label.get_text() for label in bar.get_xticklabels()] == ["0", "1.5x"]
    figure = draw_attention(pictures, ["a", "b"], _maps(), block=1)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == 2 * ["", "head 0", "head 1", "head 2"]
