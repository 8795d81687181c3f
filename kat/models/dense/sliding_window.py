"""The classes of an image's pixels: as a whole or in windows, at several scales, mirrored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.errors import InputError

_STRIP = 2**24
"""Numbers in a strip, 64 MB: of 150 classes a large image as a whole would take gigabytes."""


@dataclass
class SegmentConfig:
    """How a segmentation model is run over an image.

    Args:
        window: side in pixels of the square windows that an image is cut into, and whose answers
            are averaged where they overlap; null: the whole image at once.
        stride: pixels from one window to the next; two thirds of window unless given.
        scales: factors of the size at which the image is looked at; the answers are averaged.
        flip: also look at the mirror image, and average.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


def check_segment(config: SegmentConfig) -> None:
    """Checks that the numbers make sense.

    Raises:
        InputError: names the first that does not.
    """
    window, stride = config.window, config.stride
    if window is not None and window < 1:
        raise InputError(f"window must be at least 1 pixel, got {window}")
    if stride is not None and (window is None or not 1 <= stride <= window):
        raise InputError(f"stride must be at least 1 and at most window={window}, got {stride}")
    if not config.scales or min(config.scales) <= 0:
        raise InputError(f"scales must be positive numbers, got {list(config.scales)}")


@torch.no_grad()
def segment(model: nn.Module, image: Tensor, config: SegmentConfig | None = None) -> Tensor:
    """The mean over scales and mirror images of softmax(logits): (K, H, W) float32.

    Args:
        model: maps (1, C, h, w) to logits (1, K, h, w), in evaluation mode; where it has a
            ``window``, it takes windows of that side alone, and gets them unless others are asked
            for.
        image: (C, H, W), normalised.
        config: how; the whole image once by default.
    """
    config = config or SegmentConfig()
    size = image.shape[-2:]
    total = torch.zeros(0)
    for scale in config.scales:
        sides = [max(1, round(scale * side)) for side in size]
        scaled = image[None] if scale == 1 else _resized(image[None], sides, antialias=True)
        for mirrored in (False, True) if config.flip else (False,):
            seen = scaled.flip(-1) if mirrored else scaled
            logits = _logits(model, seen, config)
            answer = _resized(logits.flip(-1) if mirrored else logits, size).softmax(1)
            total = answer if not total.numel() else total + answer
    return total[0] / (len(config.scales) * (1 + config.flip))


def _logits(model: nn.Module, image: Tensor, config: SegmentConfig) -> Tensor:
    window: int | None = config.window or getattr(model, "window", None)
    if window is None:
        return model(image).float()
    stride = config.stride or max(1, 2 * window // 3)
    height, width = image.shape[-2:]
    total, count = torch.zeros(0), image.new_zeros(height, width, dtype=torch.float32)
    for rows in spans(height, window, stride):
        for columns in spans(width, window, stride):
            logits = model(image[..., rows, columns]).float()
            if not total.numel():
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[..., rows, columns] += logits
            count[rows, columns] += 1
    return total / count


def spans(length: int, window: int, stride: int) -> Iterator[slice]:
    """Windows that cover a length, each of full size where there is room, the last at the end."""
    start = 0
    while start + window < length:
        yield slice(start, start + window)
        start += stride
    yield slice(max(0, length - window), length)


def most_likely(answer: Tensor, size: Sequence[int]) -> Tensor:
    """The class of each pixel: (H, W) int64.

    Args:
        answer: (K, h, w), what :func:`segment` gives.
        size: H and W, which the answer is resized to.
    """
    classes = torch.empty(*size, dtype=torch.long, device=answer.device)
    for rows, part in strips(answer, size):
        classes[rows] = part.argmax(0)
    return classes


def strips(answer: Tensor, size: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """An answer (K, h, w) resized to (H, W) by bilinear interpolation, some rows at a time.

    Yields:
        Which rows, and what is there: (K, rows, W).
    """
    height, width = size
    step = max(1, _STRIP // (len(answer) * width))
    for start in range(0, height, step):
        rows = slice(start, min(start + step, height))
        yield rows, _rows(answer, rows, (height, width))


def _rows(x: Tensor, rows: slice, size: tuple[int, int]) -> Tensor:
    """Rows of what x (K, h, w) is when resized: each between two of x, then resized in width."""
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
