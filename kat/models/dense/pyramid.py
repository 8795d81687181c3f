"""Necks: from the maps of a plain transformer, all of one stride, to maps of several strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]
"""Builds the norm of a number of channels, channels first."""

SCALES = (4.0, 2.0, 1.0, 0.5)
"""The sides of the maps, relative to the transformer's: strides 4 to 32 for patches of 16."""


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid of the last map: at each scale resampling, then 1x1 and 3x3 convolutions.

    A layer norm follows each convolution. One more map consists of every second pixel of the
    coarsest.

    Args:
        width: channels of the transformer.
        patch: stride of the transformer, in pixels.
        channels: the number of channels of the maps.
        scales: the scales of the maps, powers of two, each half of the one before.

    Source: arXiv 2203.16527.

    Examples:
        >>> import torch
        >>> from kat.models.dense import SimpleFeaturePyramid
        >>> neck = SimpleFeaturePyramid(width=64, patch=8, channels=32, scales=(2.0, 1.0))
        >>> [x.shape for x in neck([torch.randn(1, 64, 6, 6)])]
        [torch.Size([1, 32, 12, 12]), torch.Size([1, 32, 6, 6]), torch.Size([1, 32, 3, 3])]
    """

    def __init__(
        self, width: int, patch: int, channels: int = 256, scales: Sequence[float] = SCALES
    ) -> None:
        super().__init__()
        self.strides = [patch / scale for scale in scales]
        self.strides.append(2 * self.strides[-1])
        self.out_channels = channels
        self.levels = nn.ModuleList(_level(width, scale, channels) for scale in scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the map of each of ``strides``, computed from the transformer's last."""
        pyramid = [level(maps[-1]) for level in self.levels]
        return [*pyramid, F.max_pool2d(pyramid[-1], kernel_size=1, stride=2)]


def _level(width: int, scale: float, channels: int) -> nn.Sequential:
    layers, width = resample(width, scale, LayerNorm2d, narrowing=2)
    for size in (1, 3):
        layers.append(nn.Conv2d(width, channels, size, padding=size // 2, bias=False))
        layers.append(LayerNorm2d(channels))
        width = channels
    return nn.Sequential(*layers)


class MultiLevel(nn.Module):
    """Resamples the maps of several blocks, each to another stride, like BEiT's UperNet.

    Args:
        width: channels of the transformer, and of the maps.
        patch: stride of the transformer, in pixels.
        norm: between two steps of upsampling.
        scales: the scales of the maps, one for each block, powers of two.

    Raises:
        InputError: a scale that is not a power of two.

    Source: Bao et al., BEiT, arXiv 2106.08254.

    Examples:
        >>> import torch
        >>> from kat.models.dense import MultiLevel
        >>> neck = MultiLevel(width=64, patch=8, scales=(2.0, 1.0))
        >>> [x.shape for x in neck([torch.randn(1, 64, 6, 6), torch.randn(1, 64, 6, 6)])]
        [torch.Size([1, 64, 12, 12]), torch.Size([1, 64, 6, 6])]
    """

    def __init__(
        self, width: int, patch: int, norm: Norm = LayerNorm2d, scales: Sequence[float] = SCALES
    ) -> None:
        super().__init__()
        self.strides = [patch / scale for scale in scales]
        self.out_channels = width
        self.levels = nn.ModuleList(
            nn.Sequential(*resample(width, scale, norm, narrowing=1)[0]) for scale in scales
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the map of each of ``strides``, computed from the blocks' maps in their order."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def resample(
    width: int, scale: float, norm: Norm, *, narrowing: int
) -> tuple[list[nn.Module], int]:
    """Layers that scale the sides of a map by a power of two, and their number of channels.

    Upsampling is by transposed convolutions of 2x2, with a norm and GELU between two of them;
    downsampling by max pooling, which rounds odd sides up.

    Args:
        width: channels of the map.
        scale: a power of two.
        norm: builds the norms.
        narrowing: the factor by which each transposed convolution divides the channels.
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
