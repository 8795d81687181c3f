"""Batches of images of several sizes: each image is computed as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def whole_patches(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) padded with zeros on the right and below to multiples of the patch."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))


def by_size(
    run: Callable[[Tensor], list[Tensor]],
    images: Tensor,
    sizes: Sequence[Size] | None,
    patch: int,
    strides: Sequence[float],
) -> list[Tensor]:
    """The maps of a batch of padded images, zero where there is padding.

    Images of one size run together, cut to it: what they get does not depend on how far they were
    padded, nor on the others, and no work is spent on the padding.

    Args:
        run: maps (B, C, H, W) to maps (B, C', ceil(H' / stride), ceil(W' / stride)), where H', W'
            are whole patches.
        images: (B, C, H, W), each in the upper left corner.
        sizes: (height, width) of each; None: all are as large as the batch.
        patch: side of the patches.
        strides: of the maps, in pixels.
    """
    canvas = tuple(int(side) for side in images.shape[-2:])  # a tracer's are tensors
    groups: dict[Size, list[int]] = {}
    for index, (height, width) in enumerate(sizes or ()):
        groups.setdefault((height, width), []).append(index)
    if set(groups) <= {canvas}:
        return run(images)
    sides = whole_patches(images, patch).shape[-2:]
    maps: list[Tensor] = []
    for (height, width), members in groups.items():
        parts = run(images[members, :, :height, :width])
        maps = maps or [
            part.new_zeros(len(images), part.shape[1], *(math.ceil(n / stride) for n in sides))
            for part, stride in zip(parts, strides, strict=True)
        ]
        for whole, part in zip(maps, parts, strict=True):
            whole[members, :, : part.shape[2], : part.shape[3]] = part
    return maps
