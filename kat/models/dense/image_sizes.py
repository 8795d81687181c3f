"""Images of any size: resized, and padded to whole patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def resized(images: Tensor, size: Sequence[int | Tensor], mode: str) -> Tensor:
    """Resize (B, C, H, W) to a height and width, with antialiasing; in a tracer to any.

    Args:
        images: float.
        size: height and width; tensors in a tracer.
        mode: bilinear or bicubic.
    """
    if torch.jit.is_tracing():  # onnxruntime's antialiasing is wrong where the sides' ratios differ
        down, across = (
            _matrix(torch.as_tensor(old), torch.as_tensor(new), mode).to(images)
            for old, new in zip(images.shape[-2:], size, strict=True)
        )
        return down @ images @ across.T
    sides = [int(side) for side in size]
    if sides == list(images.shape[-2:]):
        return images
    return F.interpolate(images, sides, mode=mode, antialias=True)


def _matrix(old: Any, new: Any, mode: str) -> Tensor:
    """Return :func:`resampling` of a whole side, (new, old)."""
    return resampling(old, old.double() / new, torch.arange(new, dtype=torch.float64), mode)


def resampling(old: Any, scale: Tensor, places: Tensor, mode: str) -> Tensor:
    """Return antialiased interpolation along one side as a float64 matrix, for a tracer.

    With the scale s = old / new and c_i = s (i + 1/2), entry (i, j) is f((j + 1/2 - c_i) /
    max(s, 1)), divided by the sum of its row. f is a triangle, or Keys' cubic with a = -1/2.

    Source: Pillow's and PyTorch's antialiasing.

    Args:
        old: pixels of the side, the columns.
        scale: (), old pixels in a new one.
        places: the rows: the indices i of new pixels.
        mode: bilinear or bicubic.
    """
    centers = scale * (places + 0.5)
    x = torch.arange(old, dtype=torch.float64) + 0.5 - centers[:, None]
    x = (x / scale.clamp(min=1)).abs()
    if mode == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    return weights / weights.sum(1, keepdim=True)


def at_most(side: Any, limit: int) -> Any:
    """Return the smaller of a side and a limit; a side is a tensor in a tracer."""
    return side.clamp(max=limit) if isinstance(side, Tensor) else min(side, limit)


def pad_to_patches(images: Tensor, patch: int) -> Tensor:
    """Pad (B, C, H, W) with zeros on the right and below to multiples of the patch size."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))
