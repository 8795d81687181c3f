"""From the maps of a plain transformer, all of one stride, to maps of several strides."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from kat.errors import InputError

Norm = Callable[[int], nn.Module]
"""Makes the norm of so many channels, channels first."""

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Of the maps, relative to the transformer's: strides 4 to 32 of patches of 16."""


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid of the last map: at each scale resample, then 1x1 and 3x3 convolutions.

    Each convolution is followed by a layer norm. A last map is every second pixel of the coarsest.

    Args:
        width: channels of the transformer.
        patch: its stride in pixels.
        channels: of the maps.
        scales: of the maps, falling, powers of two.

    Raises:
        InputError: a scale that is no power of two.

    Source: arXiv 2203.16527.
    """

    def __init__(
        self, width: int, patch: int, channels: int = 256, scales: Sequence[float] = SCALES
    ) -> None:
        super().__init__()
        self.strides = _strides(patch, scales)
        self.strides.append(2 * self.strides[-1])
        self.out_channels = channels
        self.levels = nn.ModuleList(_level(width, scale, channels) for scale in scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps of each of ``strides``, of the last of those of the transformer."""
        pyramid = [level(maps[-1]) for level in self.levels]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


def _strides(patch: int, scales: Sequence[float]) -> list[float]:
    """Of the maps at these scales of one of this stride; resampling knows powers of two alone."""
    for scale in scales:
        if scale <= 0 or not math.log2(scale).is_integer():
            raise InputError(f"scales must be powers of two, such as 0.5, 1 and 2, got {scale}")
    return [patch / scale for scale in scales]


def _level(width: int, scale: float, channels: int) -> nn.Sequential:
    layers, width = resample(width, scale, LayerNorm2d, narrowing=2)
    for size in (1, 3):
        layers.append(nn.Conv2d(width, channels, size, padding=size // 2, bias=False))
        layers.append(LayerNorm2d(channels))
        width = channels
    return nn.Sequential(*layers)


class MultiLevel(nn.Module):
    """The maps of several blocks, each resampled to another stride, as BEiT's and MAE's UperNets.

    Args:
        width: channels of the transformer, and of the maps.
        patch: its stride in pixels.
        norm: between two steps of upsampling.
        scales: of the maps, one a block, powers of two.

    Raises:
        InputError: a scale that is no power of two.

    Source: Bao et al., BEiT, arXiv 2106.08254.
    """

    def __init__(
        self, width: int, patch: int, norm: Norm = LayerNorm2d, scales: Sequence[float] = SCALES
    ) -> None:
        super().__init__()
        self.strides = _strides(patch, scales)
        self.out_channels = width
        self.levels = nn.ModuleList(
            nn.Sequential(*resample(width, scale, norm, narrowing=1)[0]) for scale in scales
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps of each of ``strides``, of those of the transformer's blocks in their order."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def resample(
    width: int, scale: float, norm: Norm, *, narrowing: int
) -> tuple[list[nn.Module], int]:
    """Layers that change the sides of a map by a power of two, and the channels they end with.

    Up by transposed convolutions of 2x2, a norm and GELU between two of them; down by max pooling,
    where an odd side counts as even.

    Args:
        width: channels.
        scale: a power of two.
        norm: makes the norms.
        narrowing: what each transposed convolution divides the channels by.
    """
    layers: list[nn.Module] = []
    while scale < 1:
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        scale *= 2
    while scale > 1:
        if layers:
            layers += [norm(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // narrowing, 2, stride=2))
        width //= narrowing
        scale /= 2
    return layers, width
