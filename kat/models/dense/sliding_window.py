"""Inference of segmentation models: whole images or sliding windows, several scales, mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.errors import InputError
from kat.sliding_window import SlidingWindowConfig

STRIP_ELEMENTS = 2**24
"""Elements of a strip, 64 MB. For 150 classes a large image as a whole would need gigabytes."""


@torch.no_grad()
def sliding_window_inference(
    model: nn.Module, image: Tensor, config: SlidingWindowConfig | None = None
) -> Tensor:
    """Return the mean of softmax(logits) over scales and mirror images: (K, H, W), float32.

    Args:
        model: maps (1, C, h, w) to logits (1, K, h, w), in evaluation mode. If it has a
            ``window``, it takes windows of that side only, which is then the default.
        image: (C, H, W), normalized.
        config: by default the whole image, once.

    Raises:
        InputError: windows that leave gaps.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.models.dense import SlidingWindowConfig, sliding_window_inference
        >>> model = kat.models.create_model("kat_upernet_micro", num_classes=4).eval()
        >>> probabilities = sliding_window_inference(
        ...     model, torch.randn(3, 96, 128), SlidingWindowConfig(window=64)
        ... )
        >>> probabilities.shape
        torch.Size([4, 96, 128])
    """
    config = config or SlidingWindowConfig()
    window, stride = config.window or getattr(model, "window", None), config.stride
    if stride is not None and (window is None or not 1 <= stride <= window):
        raise InputError(f"stride must be at least 1 and at most window={window}, got {stride}")
    size = image.shape[-2:]
    total: Any = 0.0
    for scale in config.scales:
        sides = [max(1, round(scale * side)) for side in size]
        scaled = image[None] if scale == 1 else _resized(image[None], sides, antialias=True)
        for mirrored in (False, True) if config.flip else (False,):
            logits = _logits(model, scaled.flip(-1) if mirrored else scaled, window, stride)
            total = total + _resized(logits.flip(-1) if mirrored else logits, size).softmax(1)
    return total[0] / (len(config.scales) * (1 + config.flip))


def _logits(model: nn.Module, image: Tensor, window: int | None, stride: int | None) -> Tensor:
    if window is None:
        return model(image).float()
    stride = stride or max(1, 2 * window // 3)
    height, width = image.shape[-2:]
    total, count = torch.zeros(0), image.new_zeros(height, width, dtype=torch.float32)
    for rows in window_spans(height, window, stride):
        for columns in window_spans(width, window, stride):
            logits = model(image[..., rows, columns]).float()
            if not total.numel():
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    return total / count


def window_spans(length: int, window: int, stride: int) -> Iterator[slice]:
    """Windows that cover a length: of full size if there is room, the last aligned to the end."""
    start = 0
    while start + window < length:
        yield slice(start, start + window)
        start += stride
    yield slice(max(0, length - window), length)


def predicted_classes(probabilities: Tensor, size: Sequence[int]) -> Tensor:
    """Return the most probable class of each pixel: (H, W), int64.

    Args:
        probabilities: (K, h, w), the output of :func:`sliding_window_inference`.
        size: H and W, to which they are resized.

    Examples:
        >>> import torch
        >>> from kat.models.dense import predicted_classes
        >>> predicted_classes(torch.tensor([[[0.1]], [[0.9]]]), (2, 3))
        tensor([[1, 1, 1],
                [1, 1, 1]])
    """
    classes = torch.empty(tuple(size), dtype=torch.long, device=probabilities.device)
    for rows, part in resized_strips(probabilities, size):
        classes[rows] = part.argmax(0)
    return classes


def resized_strips(x: Tensor, size: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """x (K, h, w) resized to (H, W) by bilinear interpolation, a strip of rows at a time.

    Yields:
        The rows, and their values (K, rows, W).

    Examples:
        >>> import torch
        >>> from kat.models.dense import resized_strips
        >>> strips = resized_strips(torch.rand(3, 4, 4), (8, 8))
        >>> [(rows.start, strip.shape) for rows, strip in strips]
        [(0, torch.Size([3, 8, 8]))]
    """
    height, width = size
    step = max(1, STRIP_ELEMENTS // (len(x) * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, _resized_rows(x, rows, (height, width))


def _resized_rows(x: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """Return some rows of the resized x (K, h, w), interpolated first in height, then in width."""
    if x.shape[-2:] == size:
        return x[:, rows]
    last = x.shape[-2] - 1
    place = (torch.arange(rows.start, rows.stop) + 0.5) * (x.shape[-2] / size[0]) - 0.5
    place = place.clamp(0, last).to(x.device)
    above = place.long()
    share = (place - above)[:, None]
    part = x[:, above].lerp(x[:, (above + 1).clamp(max=last)], share.expand(-1, x.shape[-1]))
    return _resized(part[None], (len(place), size[1]))[0]


def _resized(x: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    if x.shape[-2:] == tuple(size):
        return x
    return functional.interpolate(x, list(size), mode="bilinear", antialias=antialias)
