"""Mask R-CNN on a plain transformer, with ViTDet's heads."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from kat.errors import unknown
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.model import DenseModel, Features
from kat.models.dense.pyramid import SCALES, SimpleFeaturePyramid
from kat.models.kat import KAT
from kat.models.vit import ViT

Target = dict[str, Tensor]
"""What is in an image: ``boxes`` (N, 4), ``labels`` (N,) and ``masks`` (N, H, W)."""

LIKELY = 0.5
"""A pixel belongs to an object from this probability on."""

_RATIOS = (0.5, 1.0, 2.0)
_BOX_SIDE, _MASK_SIDE = 7, 14
_RCNN = frozenset(
    name
    for name, parameter in inspect.signature(MaskRCNN).parameters.items()
    if name.startswith(("rpn_", "box_")) and isinstance(parameter.default, int | float)
)
"""What torchvision lets choose about training and about which boxes are kept."""


class Detector(DenseModel, MaskRCNN):
    """Boxes, classes and masks of the objects in images: torchvision's Mask R-CNN, our backbone.

    Heads and norms are ViTDet's: two convolutions in the region proposal network, four and a linear
    layer for boxes, four for masks, layer norm over the channels, anchors of one size at each
    stride.

    Images are normalised, of any size, and may differ in it. In training they are taken as they
    come. In evaluation each is scaled, with antialiasing, so that its shorter side is ``min_size``
    or, if that makes the longer one larger than ``max_size``, so that this is ``max_size``; boxes
    and masks are those of the image as it came.

    Args:
        num_classes: K, without a background.
        img_size: the side of images, or (height, width), that the position embeddings are made for.
        in_chans: channels of the images.
        min_size, max_size: see above; the smaller and the larger side of ``img_size`` by default.
        window, global_blocks, relative_position: see :class:`DenseBackbone`.
        channels: of the pyramid's maps and of the heads' convolutions.
        scales: of the pyramid's maps, see :class:`SimpleFeaturePyramid`.
        anchor_scale: the side of a map's anchors over its stride.
        convolutions: in each of the two heads.
        hidden: width of the linear layer for boxes.
        rcnn: arguments of torchvision's ``MaskRCNN`` for training and for choosing boxes, e.g.
            ``{"box_score_thresh": 0.05, "rpn_post_nms_top_n_test": 1000}``.
        **kwargs: of the transformer, e.g. ``embed_dim``, ``num_groups``.

    Raises:
        InputError: arguments that make no sense.

    Source: He et al., Mask R-CNN, arXiv 1703.06870; Li et al., ViTDet, arXiv 2203.16527.
    """

    task = "detection"
    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
    transform: EvaluationSize
    rpn: nn.Module
    roi_heads: Any

    def __init__(
        self,
        *,
        num_classes: int = 80,
        img_size: int | Sequence[int] = 1024,
        in_chans: int = 3,
        min_size: int | None = None,
        max_size: int | None = None,
        window: int = 14,
        global_blocks: Sequence[int] | None = None,
        relative_position: bool = True,
        channels: int = 256,
        scales: Sequence[float] = SCALES,
        anchor_scale: float = 8.0,
        convolutions: int = 4,
        hidden: int = 1024,
        rcnn: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        body = DenseBackbone(
            self.make_vit(img_size, in_chans=in_chans, **kwargs),
            window=window,
            global_blocks=global_blocks,
            relative_position=relative_position,
        )
        for name in rcnn or {}:
            if name not in _RCNN:
                raise unknown("entry of rcnn", name, _RCNN)
        neck = SimpleFeaturePyramid(body.vit.embed_dim, body.patch, channels, scales)
        parts = {
            **_proposals(channels, neck.strides, anchor_scale),
            **_heads(channels, neck.strides[:-1], convolutions, hidden, num_classes + 1),
        }
        super().__init__(Features(body, neck), **parts, **dict(rcnn or {}))
        self.num_classes = num_classes
        sides = body.vit.patch_embed.img_size
        self.transform = EvaluationSize(
            min_size or min(sides), max_size or max(sides), in_chans, int(neck.strides[-1])
        )

    def set_image_size(self, side: int) -> None:
        """Has images scaled in evaluation so that their longer side is this."""
        self.transform.min_size, self.transform.max_size = (side,), side

    @property
    def least_score(self) -> float:
        """What an object must score more than, in evaluation: ``box_score_thresh``."""
        score: float = self.roi_heads.score_thresh
        return score

    @least_score.setter
    def least_score(self, score: float) -> None:
        self.roi_heads.score_thresh = score

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Target]:
        """Losses in training; in evaluation what is found in each image.

        Args:
            images: each (C, H, W).
            targets: in training, what is in each image: ``boxes`` (N, 4) as x1, y1, x2, y2 in
                pixels, ``labels`` (N,) from 0 to K - 1, ``masks`` (N, H, W) of 0 and 1.

        Returns:
            In training the losses by name, which are to be added. In evaluation for each image
            ``boxes`` and ``labels`` as above, ``masks`` (N, H, W) bool, where it is likely that the
            object is, and ``scores`` (N,), falling.

        Raises:
            ValueError: no targets in training.
        """
        if self.training and targets is None:
            raise ValueError("a detector needs the targets in training")
        own = list(targets or ()) if self.training else None
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, own = self.transform(images, own)
        found, losses = self.detect(batch, own)
        if self.training:
            return losses
        objects: list[Target] = self.transform.postprocess(found, batch.image_sizes, sizes)
        return objects

    def detect(
        self, batch: ImageList, targets: Sequence[Target] | None = None
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """What is found in each image of a batch, and in training the losses.

        Args:
            batch: what :class:`EvaluationSize` makes of images; boxes are in its pixels.
            targets: see :meth:`forward`.

        Returns:
            As :meth:`forward`, but ``masks`` (N, 1, 28, 28) are probabilities within the boxes.
        """
        own = None if targets is None else [_counted_from(1, target) for target in targets]
        maps = self.backbone(batch.tensors, batch.image_sizes)
        features = OrderedDict((str(level), one) for level, one in enumerate(maps))
        proposals, losses = self.rpn(batch, features, own)
        found, more = self.roi_heads(features, proposals, batch.image_sizes, own)
        return [_counted_from(-1, one) for one in found], {**losses, **more}


def _exact(x: Tensor) -> Tensor:
    """In float32, unless it is more exact: torchvision computes boxes in the type of what the heads
    say, and in bfloat16 there are four pixels from one number to the next above 512."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _Anchors(AnchorGenerator):
    """Anchors around every pixel of each map, i strides from the image's corner.

    torchvision takes the sides of image and map for the strides, and rounds 3.5 down to 3.
    """

    def __init__(self, sizes: Sequence[tuple[float]], strides: Sequence[float]) -> None:
        super().__init__(sizes, [_RATIOS] * len(sizes))
        self.strides = strides

    def grid_anchors(self, grid_sizes: list[list[int]], strides: Any) -> list[Tensor]:
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, [[s, s] for s in self.strides])
        return anchors

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        # Type and size of the maps are all that it looks at: one channel says both.
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


def _proposals(channels: int, strides: Sequence[float], scale: float) -> dict[str, nn.Module]:
    """The region proposal network: two convolutions, anchors of so many strides on each map."""
    sizes = [(scale * stride,) for stride in strides]
    return {
        "rpn_anchor_generator": _Anchors(sizes, strides),
        "rpn_head": _ProposalHead(channels, len(_RATIOS), conv_depth=2),
    }


def _heads(
    channels: int, strides: Sequence[float], convolutions: int, hidden: int, classes: int
) -> dict[str, nn.Module]:
    """The heads for boxes and masks on maps of these strides, with layer norm."""
    convs = [channels] * convolutions
    region = (channels, _BOX_SIDE, _BOX_SIDE)
    return {
        "box_roi_pool": _roi_align(strides, _BOX_SIDE),
        "box_head": FastRCNNConvFCHead(region, convs, [hidden], norm_layer=LayerNorm2d),
        "box_predictor": _BoxPredictor(hidden, classes),
        "mask_roi_pool": _roi_align(strides, _MASK_SIDE),
        "mask_head": MaskRCNNHeads(channels, convs, dilation=1, norm_layer=LayerNorm2d),
        "mask_predictor": _MaskPredictor(channels, channels, classes),
    }


def _counted_from(shift: int, objects: Target) -> Target:
    """With labels moved by this; torchvision's own begin with the background."""
    return {**objects, "labels": objects["labels"] + shift}


def _roi_align(strides: Sequence[float], side: int) -> MultiScaleRoIAlign:
    """RoIAlign with these strides, where torchvision guesses them from its first batch."""
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], side, 0)
    pool.scales = [1 / stride for stride in strides]
    first, last = (round(math.log2(stride)) for stride in (strides[0], strides[-1]))
    pool.map_levels = initLevelMapper(first, last)
    return pool


class EvaluationSize(GeneralizedRCNNTransform):
    """Batches of padded images, scaled in evaluation only; the images are normalised already.

    Args:
        min_size, max_size: bounds of the sides, see :class:`Detector`.
        channels: of the images.
        step: sides of the batch are multiples of this.
    """

    def __init__(self, min_size: int, max_size: int, channels: int, step: int) -> None:
        plain = [0.0] * channels, [1.0] * channels
        super().__init__(min_size, max_size, *plain, size_divisible=step)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """The image at its scale, and the target as it is: there is none in evaluation."""
        sides = image.shape[-2:]
        scale = min(self.min_size[0] / min(sides), self.max_size / max(sides))
        if self.training or scale == 1:
            return image, target
        size = [max(round(side * scale), 1) for side in sides]
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0], target

    def postprocess(
        self,
        result: list[Target],
        image_shapes: Sequence[tuple[int, int]],
        original_image_sizes: Sequence[tuple[int, ...]],
    ) -> list[Target]:
        """Objects in the pixels of the images as they came, with masks (N, H, W) bool."""
        placed = []
        for objects, seen, size in zip(result, image_shapes, original_image_sizes, strict=True):
            boxes = resize_boxes(objects["boxes"], seen, size)
            placed.append(
                {**objects, "boxes": boxes, "masks": _drawn(objects["masks"], boxes, size)}
            )
        return placed


def _drawn(masks: Tensor, boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, H, W) bool: where probabilities (N, 1, h, w) of boxes say that the objects are.

    One by one: the probabilities of all of a large image's pixels for 100 objects take gigabytes.
    """
    drawn = torch.empty(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for whole, mask, box in zip(drawn, masks, boxes, strict=True):
        pasted = paste_masks_in_image(mask[None], box[None], size)
        torch.ge(pasted[0, 0], LIKELY, out=whole)
    return drawn


class KATDetector(Detector):
    """A detector whose transformer is a :class:`kat.KAT`."""

    transformer_class = KAT


class ViTDetector(Detector):
    """A detector whose transformer is a plain Vision Transformer."""

    transformer_class = ViT
