"""Batches of images of several sizes: each image is computed as if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def pad_to_patches(images: Tensor, patch: int) -> Tensor:
    """Pads (B, C, H, W) with zeros on the right and below to multiples of the patch size."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % patch, 0, -height % patch))


def run_by_size(
    run: Callable[[Tensor], list[Tensor]],
    images: Tensor,
    sizes: Sequence[Size] | None,
    patch: int,
    strides: Sequence[float],
) -> list[Tensor]:
    """The maps of a batch of padded images, zero in the padding.

    Images of one size are cut to it and run together. So their maps depend neither on the amount of
    padding nor on the other images, and no time is spent on padding.

    Args:
        run: computes maps (B, C', ceil(H' / stride), ceil(W' / stride)) of images (B, C, H, W),
            where H' and W' are H and W rounded up to whole patches.
        images: (B, C, H, W), each in the upper left corner.
        sizes: (height, width) of each image; None if none is padded.
        patch: side of a patch, in pixels.
        strides: the strides of the maps, in pixels.
    """
    canvas = tuple(int(side) for side in images.shape[-2:])  # tensors in a tracer
    groups: dict[Size, list[int]] = {}
    for index, (height, width) in enumerate(sizes or ()):
        groups.setdefault((height, width), []).append(index)
    if set(groups) <= {canvas}:
        return run(images)
    sides = pad_to_patches(images, patch).shape[-2:]
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
