"""The parts of torchvision's Mask R-CNN in ViTDet's form, exact in half precision too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

_RATIOS = (0.5, 1.0, 2.0)
_BOX_SIDE, _MASK_SIDE = 7, 14


def _exact(x: Tensor) -> Tensor:
    """x in float32, or more exact. torchvision computes boxes in the dtype of the heads' output,
    and between bfloat16 numbers above 512 there are four pixels."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Anchors(AnchorGenerator):
    """Anchors around every pixel of each map, i strides from the corner of the image.

    torchvision divides the sides of image and map for the strides, and rounds 3.5 down to 3.
    """

    def __init__(self, sizes: Sequence[tuple[float]], strides: Sequence[float]) -> None:
        super().__init__(sizes, [_RATIOS] * len(sizes))
        self.strides = strides

    def grid_anchors(self, grid_sizes: list[list[int]], strides: Any) -> list[Tensor]:
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, [[s, s] for s in self.strides])
        return anchors

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        # Only dtype and size of the maps matter: one channel has both.
        return super().forward(image_list, [_exact(one[:, :1]) for one in feature_maps])


class _ProposalHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [_exact(one) for one in logits], [_exact(one) for one in deltas]


class _BoxPredictor(FastRCNNPredictor):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = super().forward(x)
        return _exact(logits), _exact(deltas)


class _MaskPredictor(MaskRCNNPredictor):
    def forward(self, x: Tensor) -> Tensor:
        return _exact(super().forward(x))


def proposal_parts(channels: int, strides: Sequence[float], scale: float) -> dict[str, nn.Module]:
    """The region proposal network: two convolutions, and anchors of ``scale`` strides."""
    sizes = [(scale * stride,) for stride in strides]
    return {
        "rpn_anchor_generator": _Anchors(sizes, strides),
        "rpn_head": _ProposalHead(channels, len(_RATIOS), conv_depth=2),
    }


def box_parts(
    channels: int, strides: Sequence[float], convs: list[int], hidden: int, classes: int
) -> dict[str, nn.Module]:
    """The head for boxes on maps of these strides, with layer norm."""
    region = (channels, _BOX_SIDE, _BOX_SIDE)
    return {
        "box_roi_pool": _roi_align(strides, _BOX_SIDE),
        "box_head": FastRCNNConvFCHead(region, convs, [hidden], norm_layer=LayerNorm2d),
        "box_predictor": _BoxPredictor(hidden, classes),
    }


def mask_parts(
    channels: int, strides: Sequence[float], convs: list[int], classes: int
) -> dict[str, nn.Module]:
    """The head for masks on maps of these strides, with layer norm."""
    return {
        "mask_roi_pool": _roi_align(strides, _MASK_SIDE),
        "mask_head": MaskRCNNHeads(channels, convs, dilation=1, norm_layer=LayerNorm2d),
        "mask_predictor": _MaskPredictor(channels, channels, classes),
    }


class _RoIAlign(MultiScaleRoIAlign):
    """RoIAlign in the dtype of the boxes, more exact than that of maps in half precision."""

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        dtype = next(iter(x.values())).dtype
        exact = {name: level.to(boxes[0].dtype) for name, level in x.items()}
        pooled: Tensor = super().forward(exact, boxes, image_shapes)
        return pooled.to(dtype)


def _roi_align(strides: Sequence[float], side: int) -> MultiScaleRoIAlign:
    """RoIAlign with these strides; torchvision would infer them from its first batch."""
    pool = _RoIAlign([str(level) for level in range(len(strides))], side, 0)
    pool.scales = [1 / stride for stride in strides]
    first, last = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
    pool.map_levels = initLevelMapper(first, last)
    return pool


class TopKInOrder(TorchFunctionMode):
    """Has ``x.topk(k, dim)`` return equal values in the order of their indices, as ONNX does.

    All anchors in padding have the same score. Which of them become proposals is then the same in
    every run and in an exported file.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.topk and not (kwargs or {}).keys() - {"k", "dim"}:
            return _topk_in_order(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _topk_in_order(x: Tensor, k: int, dim: int = -1) -> Any:
    values, indices = x.sort(dim=dim, descending=True, stable=True)
    return torch.return_types.topk((values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))
