"""The parts of torchvision's Mask R-CNN in ViTDet's form: images, heads, detections.

They are exact in half precision too.
"""

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
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from kat.models.dense.image_sizes import resized

Target = dict[str, Tensor]
"""The ground truth of an image: ``boxes`` (N, 4), ``labels`` (N,) and, for a model with masks,
``masks`` (N, H, W)."""

Detections = dict[str, Tensor]
"""A ``Target`` with ``scores`` (N,)."""

MASK_THRESHOLD = 0.5
"""The least probability at which a pixel belongs to an object."""

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
        return list(super().grid_anchors(grid_sizes, [[s, s] for s in self.strides]))

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
    """Return the region proposal network: two convolutions, and anchors of ``scale`` strides."""
    sizes = [(scale * stride,) for stride in strides]
    return {
        "rpn_anchor_generator": _Anchors(sizes, strides),
        "rpn_head": _ProposalHead(channels, len(_RATIOS), conv_depth=2),
    }


def box_parts(
    channels: int, strides: Sequence[float], convs: list[int], hidden: int, classes: int
) -> dict[str, nn.Module]:
    """Return the head for boxes on maps of these strides, with layer norm."""
    region = (channels, _BOX_SIDE, _BOX_SIDE)
    return {
        "box_roi_pool": _roi_align(strides, _BOX_SIDE),
        "box_head": FastRCNNConvFCHead(region, convs, [hidden], norm_layer=LayerNorm2d),
        "box_predictor": _BoxPredictor(hidden, classes),
    }


def mask_parts(
    channels: int, strides: Sequence[float], convs: list[int], classes: int
) -> dict[str, nn.Module]:
    """Return the head for masks on maps of these strides, with layer norm."""
    return {
        "mask_roi_pool": _roi_align(strides, _MASK_SIDE),
        "mask_head": MaskRCNNHeads(channels, convs, dilation=1, norm_layer=LayerNorm2d),
        "mask_predictor": _MaskPredictor(channels, channels, classes),
    }


class _RoIAlign(MultiScaleRoIAlign):
    """RoIAlign in the dtype of the boxes, which is more exact than maps in half precision."""

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
    """Makes ``x.topk(k, dim)`` return equal values in the order of their indices, as ONNX does.

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


class EvaluationSize(GeneralizedRCNNTransform):
    """Batches normalized images with padding, and resizes them in evaluation only.

    Args:
        min_size, max_size: bounds of the sides, see :class:`Detector`.
        channels: the number of channels of the images.
        step: sides of the batch are multiples of this.

    Examples:
        >>> import torch
        >>> from kat.models.dense import EvaluationSize
        >>> resize = EvaluationSize(min_size=64, max_size=128, channels=3, step=32).eval()
        >>> images, _ = resize([torch.randn(3, 100, 150)])
        >>> images.image_sizes, images.tensors.shape
        ([(64, 96)], torch.Size([1, 3, 64, 96]))
    """

    def __init__(self, min_size: int, max_size: int, channels: int, step: int) -> None:
        super().__init__(
            min_size, max_size, [0.0] * channels, [1.0] * channels, size_divisible=step
        )

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Return the resized image, and the target unchanged: there is none in evaluation."""
        if self.training:
            return image, target
        sides = torch.stack([torch.as_tensor(side) for side in image.shape[-2:]]).double()
        scale = torch.minimum(self.min_size[0] / sides.min(), self.max_size / sides.max())
        height, width = (sides * scale).round().clamp(min=1).long()
        return resized(image[None], (height, width), "bilinear")[0], target

    def postprocess(
        self,
        result: list[Detections],
        image_shapes: Sequence[tuple[int, int]],
        original_image_sizes: Sequence[tuple[int, ...]],
    ) -> list[Detections]:
        """Return the detections in pixels of the original images, with masks (N, H, W) bool."""
        triples = zip(result, image_shapes, original_image_sizes, strict=True)
        return [
            placed_in_image({**one, "boxes": resize_boxes(one["boxes"], seen, size)}, size)
            for one, seen, size in triples
        ]


def placed_in_image(found: Detections, size: tuple[int, ...]) -> Detections:
    """Return the detections of an image with masks (N, H, W) bool, from their probabilities.

    Masks are pasted one by one: the probabilities of 100 objects for all pixels of a large image
    need gigabytes.

    Examples:
        >>> import torch
        >>> from kat.models.dense import placed_in_image
        >>> boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        >>> found = {"boxes": boxes, "masks": torch.ones(1, 1, 28, 28)}
        >>> placed_in_image(found, (8, 10))["masks"].shape
        torch.Size([1, 8, 10])
    """
    if "masks" not in found:
        return found
    boxes = found["boxes"]
    pasted = torch.empty((len(boxes), *size), dtype=torch.bool, device=boxes.device)
    for whole, mask, box in zip(pasted, found["masks"], boxes, strict=True):
        torch.ge(paste_masks_in_image(mask[None], box[None], size)[0, 0], MASK_THRESHOLD, out=whole)
    return {**found, "masks": pasted}
