"""UperNet on a plain transformer: semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from kat.models.dense.backbone import DenseBackbone, last_of_parts
from kat.models.dense.model import DenseModel, Features
from kat.models.dense.pyramid import SCALES, MultiLevel, Norm
from kat.models.kat import KAT
from kat.models.vit import ViT

POOLED = (1, 2, 3, 6)
"""Sides of the grids of the pyramid pooling module."""

NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "layer": LayerNorm2d}


class UperNet(DenseModel):
    """Computes logits (B, K, H, W) of images (B, C, H, W) of any size.

    The maps of four blocks, the last of each quarter, are resampled to four strides. There is
    pyramid pooling on the coarsest, a feature pyramid over all, and in training an auxiliary head
    on the third.

    Args:
        num_classes: K.
        img_size: the side, or (height, width), of the images that the position embeddings are for.
        in_chans: channels of the images.
        window, global_blocks, relative_position: see :class:`DenseBackbone`.
        out_blocks: indices of the blocks; None for the last of each equal part of the transformer.
        scales: the scales of their maps, see :class:`MultiLevel`.
        channels: the number of channels of the maps in the head.
        auxiliary: channels of the maps in the auxiliary head.
        norm: ``"batch"``, as published, which needs large batches and several images in each
            process, or ``"layer"``, over the channels of a pixel, which is independent of the
            batch.
        drop: dropout rate before the classifiers.
        **kwargs: of the transformer, e.g. ``embed_dim``, ``num_groups``.

    Source: Xiao et al., Unified Perceptual Parsing for Scene Understanding, arXiv 1807.10221.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = kat.models.create_model("kat_upernet_micro", num_classes=5).eval()
        >>> model(torch.randn(1, 3, 64, 96)).shape
        torch.Size([1, 5, 64, 96])
    """

    task = "segmentation"
    class_layers = ("head.classify.", "auxiliary_head.2.")

    def __init__(
        self,
        *,
        num_classes: int = 150,
        img_size: int | Sequence[int] = 512,
        in_chans: int = 3,
        window: int = 0,
        global_blocks: Sequence[int] | None = None,
        relative_position: bool = False,
        out_blocks: Sequence[int] | None = None,
        scales: Sequence[float] = SCALES,
        channels: int = 512,
        auxiliary: int = 256,
        norm: str = "batch",
        drop: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        vit, levels = self.make_vit(img_size, in_chans=in_chans, **kwargs), len(scales)
        blocks = last_of_parts(len(vit.blocks), levels) if out_blocks is None else out_blocks
        body = DenseBackbone(
            vit,
            window=window,
            global_blocks=global_blocks,
            relative_position=relative_position,
            out_blocks=blocks,
        )
        width, make_norm = vit.embed_dim, NORMS[norm]
        self.num_classes = num_classes
        self.backbone = Features(body, MultiLevel(width, body.patch, make_norm, scales))
        self.head = UperHead([width] * levels, channels, num_classes, make_norm, drop)
        self.auxiliary_head = nn.Sequential(
            _convolution(width, auxiliary, 3, make_norm),
            nn.Dropout2d(drop),
            nn.Conv2d(auxiliary, num_classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits; in training also the logits of the auxiliary head."""
        maps = self.backbone(images)
        logits = self._upsampled(self.head(maps), images)
        if not self.training:
            return logits
        return logits, self._upsampled(self.auxiliary_head(maps[-2]), images)

    def _upsampled(self, logits: Tensor, images: Tensor) -> Tensor:
        """Logits of the size of the images, without the padding to whole patches."""
        patch = self.backbone.body.patch
        height, width = images.shape[-2:]
        sides = (height + -height % patch, width + -width % patch)
        return _resized(logits, sides)[..., :height, :width]


class UperHead(nn.Module):
    """UperNet's head: computes logits of the size of the finest of several maps.

    Args:
        widths: channels of the maps.
        channels: the number of channels of the maps within the head.
        num_classes: K.
        norm: builds the norm after each convolution.
        drop: dropout rate before the classifier.
    """

    def __init__(
        self, widths: Sequence[int], channels: int, num_classes: int, norm: Norm, drop: float
    ) -> None:
        super().__init__()
        last = widths[-1]
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _convolution(last, channels, 1, norm))
            for side in POOLED
        )
        self.bottleneck = _convolution(last + len(POOLED) * channels, channels, 3, norm)
        self.lateral = nn.ModuleList(_convolution(w, channels, 1, norm) for w in widths[:-1])
        self.smooth = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in widths[:-1])
        self.fuse = _convolution(len(widths) * channels, channels, 3, norm)
        self.drop = nn.Dropout2d(drop)
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, H, W) of maps (B, C, H, W), finest first."""
        last = maps[-1]
        pooled = [_resized(pool(last), last.shape[-2:]) for pool in self.pooled]
        path = [self.bottleneck(torch.cat([last, *pooled], 1))]
        for lateral, x in reversed(list(zip(self.lateral, maps[:-1], strict=True))):
            path.insert(0, lateral(x) + _resized(path[0], x.shape[-2:]))
        smooth = [layer(x) for layer, x in zip(self.smooth, path[:-1], strict=True)]
        size = path[0].shape[-2:]
        fused = self.fuse(torch.cat([_resized(x, size) for x in (*smooth, path[-1])], 1))
        return self.classify(self.drop(fused))


def _convolution(inputs: int, outputs: int, size: int, norm: Norm) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, norm(outputs), nn.ReLU())


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class KATUperNet(UperNet):
    """A UperNet whose transformer is a :class:`kat.models.KAT`.

    Examples:
        >>> import kat
        >>> from kat.models.dense import KATUperNet
        >>> isinstance(kat.models.create_model("kat_upernet_micro"), KATUperNet)
        True
    """

    transformer_class = KAT


class ViTUperNet(UperNet):
    """A UperNet whose transformer is a plain Vision Transformer.

    Examples:
        >>> import kat
        >>> from kat.models.dense import ViTUperNet
        >>> isinstance(kat.models.create_model("vit_upernet_micro"), ViTUperNet)
        True
    """

    transformer_class = ViT
