"""The figure of attention: each image as the model sees it, overlaid with attention maps."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.base import draw_picture
from kat.analysis.inspect.attention import AttentionMaps
from kat.data import Batch
from kat.errors import InputError

_SIDE = 1.7
"""Of a panel, in inches."""


def draw_attention(
    pictures: Tensor, titles: Sequence[str], maps: AttentionMaps, block: int | None = None
) -> Figure:
    """Draws a row for each image: the image, attention rollout, and the mean of each block's heads.

    Colors go from 0 to the maximum of each map. The color bar below it names that in units of
    1 / tokens: ``2.5x`` is 2.5 times uniform attention.

    Args:
        pictures: (B, C, H, W) uint8, gray or RGB: the input of the model before normalization.
        titles: one for each image.
        maps: the maps of the same images.
        block: draw the heads of this block, counted from 0, instead of the blocks.

    Raises:
        InputError: there is no such block.
    """
    panels = _panels(maps, block)
    rows, columns = len(pictures), 1 + len(panels)
    size = (_SIDE * columns, (_SIDE + 0.45) * rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, picture, title in zip(grid, pictures, titles, strict=True):
        draw_picture(row[0], picture, title.split("\n"))
    for column, (name, values) in enumerate(panels.items(), start=1):
        for axes, picture, heat in zip(grid[:, column], pictures, values, strict=True):
            draw_picture(axes, picture, [name])
            _draw_heat(axes, heat, picture, maps.tokens)
    return figure


def _panels(maps: AttentionMaps, block: int | None) -> dict[str, Tensor]:
    """The maps that are drawn, (B, h, w) each, by title."""
    blocks = list(maps.blocks.values())
    if block is None:
        means = {f"block {n}, mean of heads": heads.mean(1) for n, heads in enumerate(blocks)}
        return {"rollout": maps.rollout, **means}
    if not 0 <= block < len(blocks):
        raise InputError(f"there is no block {block}; the model has blocks 0 to {len(blocks) - 1}")
    heads = blocks[block].unbind(1)
    return {f"block {block}, head {n}": values for n, values in enumerate(heads)}


def _draw_heat(axes: Axes, heat: Tensor, picture: Tensor, tokens: int) -> None:
    """Draws a map over a picture, and its scale below; each cell covers the pixels of its patch."""
    height, width = picture.shape[-2:]
    most = float(heat.max())
    colors = mpl.colors.Normalize(0, most or 1.0)
    extent = (0, width, height, 0)
    axes.imshow(heat.cpu().numpy(), cmap="inferno", norm=colors, alpha=0.6, extent=extent)
    scale = mpl.cm.ScalarMappable(colors, "inferno")
    below = axes.inset_axes((0, -0.09, 1, 0.05))
    bar = axes.figure.colorbar(scale, cax=below, orientation="horizontal", ticks=[0, colors.vmax])
    bar.ax.set_xticklabels(["0", f"{tokens * most:.2g}x"], fontsize=6)
    bar.ax.tick_params(length=0, pad=1)


def true_classes(batches: Sequence[Batch], classes: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Joins batches of images: (N, C, H, W), and a title for each such as ``"true: cat"``."""
    labels = [label for batch in batches for label in batch.labels.tolist()]
    pictures = torch.cat([batch.images for batch in batches])
    return pictures, [f"true: {classes[label]}" for label in labels]


def with_predictions(titles: Sequence[str], logits: Tensor, classes: Sequence[str]) -> list[str]:
    """Adds the predicted class and its probability to the titles, for a model with classes.

    Args:
        titles: the titles of N images.
        logits: (N, K).
        classes: K names; none for a model without a head.
    """
    if not classes:
        return list(titles)
    confidence, predicted = logits.softmax(-1).max(-1)
    return [
        f"{title}\npredicted: {classes[index]} ({100 * probability:.0f} %)"
        for title, index, probability in zip(
            titles, predicted.tolist(), confidence.tolist(), strict=True
        )
    ]
