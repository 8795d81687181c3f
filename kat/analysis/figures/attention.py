"""The figure of attention: each image as the model sees it, overlaid with attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kat.analysis.figures.base import WIDTH, draw_picture, plain, styled
from kat.analysis.inspect.attention import AttentionMaps
from kat.data import Batch
from kat.errors import InputError

_COLUMNS, _HEIGHT, _LETTERS = 6, 1.25, 70
"""Panels side by side, the height of a line of them in inches, the letters of a line of a title."""


@styled
def draw_attention(
    pictures: Tensor, titles: Sequence[str], maps: AttentionMaps, block: int | None = None
) -> Figure:
    """Draw for each image: the image, attention rollout, and the mean of each block's heads.

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
    columns, broken = min(_COLUMNS, 1 + len(panels)), [wrap(plain(t), _LETTERS) for t in titles]
    lines = -(-(1 + len(panels)) // columns)
    heights = [_HEIGHT * lines + 0.15 * len(title) for title in broken]
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(pictures), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (part, picture, title) in enumerate(zip(parts, pictures, broken, strict=True)):
        part.suptitle("\n".join(title), x=0.01, ha="left", fontsize=9)
        first, *others = part.subplots(lines, columns, squeeze=False).flat
        draw_picture(first, picture)
        for axes, (name, values) in zip(others, panels.items(), strict=False):
            draw_picture(axes, picture, [name])
            _draw_heat(axes, values[number], picture, maps.tokens)
        for axes in others[len(panels) :]:
            axes.set_axis_off()
    return figure


def _panels(maps: AttentionMaps, block: int | None) -> dict[str, Tensor]:
    """Return the maps that are drawn, (B, h, w) each, by title."""
    blocks = list(maps.blocks.values())
    if block is None:
        means = {f"block {n}": heads.mean(1) for n, heads in enumerate(blocks)}
        return {"rollout": maps.rollout, **means}
    if not 0 <= block < len(blocks):
        raise InputError(f"there is no block {block}; the model has blocks 0 to {len(blocks) - 1}")
    heads = blocks[block].unbind(1)
    return {f"head {n}": values for n, values in enumerate(heads)}


def _draw_heat(axes: Axes, heat: Tensor, picture: Tensor, tokens: int) -> None:
    """Draw a map over a picture, and its scale below; each cell covers the pixels of its patch."""
    height, width = picture.shape[-2:]
    most = float(heat.max())
    colors = mpl.colors.Normalize(0, most or 1.0)
    extent = (0, width, height, 0)
    axes.imshow(heat.cpu().numpy(), cmap="inferno", norm=colors, alpha=0.6, extent=extent)
    scale = mpl.cm.ScalarMappable(colors, "inferno")
    below = axes.inset_axes((0, -0.09, 1, 0.05))
    bar = axes.figure.colorbar(scale, cax=below, orientation="horizontal", ticks=[0, colors.vmax])
    bar.ax.set_xticklabels(["0", f"{tokens * most:.2g}x"], fontsize=7)
    bar.ax.tick_params(length=0, pad=1)


def true_classes(batches: Sequence[Batch], classes: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Join batches of images: (N, C, H, W), and a title for each such as ``"true: cat"``."""
    pictures = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    return pictures, [f"true: {classes[label]}" for label in labels.tolist()]


def with_predictions(titles: Sequence[str], logits: Tensor, classes: Sequence[str]) -> list[str]:
    """Add the predicted class and its probability to the titles, for a model with classes.

    Args:
        titles: the titles of N images.
        logits: (N, K).
        classes: K names; none for a model without a head.
    """
    if not classes:
        return list(titles)
    confidence, predicted = logits.softmax(-1).max(-1)
    return [
        f"{title}, predicted: {classes[index]} ({100 * probability:.0f} %)"
        for title, index, probability in zip(
            titles, predicted.tolist(), confidence.tolist(), strict=True
        )
    ]
