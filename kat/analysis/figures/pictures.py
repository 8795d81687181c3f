"""Draws an image as a model sees it."""

from __future__ import annotations

from matplotlib.axes import Axes
from torch import Tensor


def draw_picture(axes: Axes, picture: Tensor) -> None:
    """Draws an image without ticks, in the coordinates of its pixels.

    Args:
        axes: where it is drawn.
        picture: (C, H, W) uint8, gray or RGB.
    """
    height, width = picture.shape[-2:]
    pixels = picture.permute(1, 2, 0).cpu().numpy()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    axes.set(xticks=[], yticks=[])
