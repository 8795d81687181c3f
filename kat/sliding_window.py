"""The settings of sliding windows, which the command line and ``kat.models`` read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SlidingWindowConfig:
    """Sliding-window inference: how a segmentation model is applied to an image.

    Args:
        window: side of the square windows in pixels, whose logits are averaged where they overlap;
            null for the whole image at once.
        stride: pixels from one window to the next; by default two thirds of window.
        scales: factors by which the image is resized; probabilities are averaged over them.
        flip: also average over the mirror image.

    Examples:
        >>> from kat.models.dense import SlidingWindowConfig
        >>> config = SlidingWindowConfig(window=512, scales=(0.75, 1.0, 1.25), flip=True)
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
