"""Mask R-CNN and Faster R-CNN on a plain transformer, with ViTDet's heads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from kat.errors import unknown
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.model import DenseModel, Features
from kat.models.dense.pyramid import SCALES, SimpleFeaturePyramid
from kat.models.dense.rcnn_parts import (
    Detections,
    EvaluationSize,
    Target,
    TopKInOrder,
    box_parts,
    mask_parts,
    proposal_parts,
)
from kat.models.kat import KAT
from kat.models.vit import ViT

_RCNN = {name for name in signature(FasterRCNN).parameters if name.startswith(("rpn_", "box_"))}
"""torchvision's settings of training and of the selection of boxes, and its parts."""


class Detector(DenseModel, FasterRCNN):
    """Detects the boxes, classes and masks of objects: torchvision's Mask R-CNN on our backbone.

    Without masks it is torchvision's Faster R-CNN, with the same other parts.

    Heads and norms are ViTDet's: two convolutions in the region proposal network, four and a linear
    layer for boxes, four for masks, layer norm over the channels, anchors of one size at each
    stride.

    Images are normalized, of any size, and may differ in size. In training they keep their size. In
    evaluation each is resized, with antialiasing, so that its shorter side is ``min_size`` or, if
    the longer side would exceed ``max_size``, so that the longer side is ``max_size``. Boxes and
    masks refer to the original image.

    Args:
        num_classes: K, without the background.
        img_size: the side, or (height, width), of the images that the position embeddings are for.
        in_chans: channels of the images.
        masks: False leaves out the head for masks.
        min_size, max_size: see above; by default the smaller and the larger side of ``img_size``.
        window, global_blocks, relative_position: see :class:`DenseBackbone`.
        channels: the width of the pyramid's maps and of the heads' convolutions.
        scales: the scales of the pyramid's maps, see :class:`SimpleFeaturePyramid`.
        anchor_scale: the side of a map's anchors divided by its stride.
        convolutions: their number in each of the two heads.
        hidden: width of the linear layer for boxes.
        rcnn: arguments of torchvision's ``FasterRCNN`` about training and the selection of boxes,
            e.g. ``{"box_score_thresh": 0.05, "rpn_post_nms_top_n_test": 1000}``.
        **kwargs: of the transformer, e.g. ``embed_dim``, ``num_groups``.

    Raises:
        InputError: invalid arguments.

    Source: He et al., Mask R-CNN, arXiv 1703.06870; Li et al., ViTDet, arXiv 2203.16527.

    Examples:
        >>> import torch
        >>> import kat
        >>> detector = kat.models.create_model("kat_det_micro", num_classes=3).eval()
        >>> found = detector([torch.randn(3, 96, 128)])[0]
        >>> sorted(found)
        ['boxes', 'labels', 'masks', 'scores']
    """

    task = "detection"
    pipeline_tag = "object-detection"
    """The Hub's name of the task."""
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
        masks: bool = True,
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
        if strange := sorted({**(rcnn or {})}.keys() - _RCNN):
            raise unknown("entry of rcnn", strange[0], _RCNN)
        neck = SimpleFeaturePyramid(body.vit.embed_dim, body.patch, channels, scales)
        strides, convs = neck.strides[:-1], [channels] * convolutions
        parts = {
            **proposal_parts(channels, neck.strides, anchor_scale),
            **box_parts(channels, strides, convs, hidden, num_classes + 1),
        }
        for_masks = mask_parts(channels, strides, convs, num_classes + 1) if masks else {}
        super().__init__(Features(body, neck), **parts, **dict(rcnn or {}))
        for name, part in for_masks.items():
            setattr(self.roi_heads, name, part)
        self.num_classes = num_classes
        sides = body.vit.patch_embed.img_size
        self.transform = EvaluationSize(
            min_size or min(sides), max_size or max(sides), in_chans, int(neck.strides[-1])
        )

    def set_image_size(self, side: int) -> None:
        """Set the length of the longer side to which images are resized in evaluation."""
        self.transform.min_size, self.transform.max_size = (side,), side

    @property
    def has_masks(self) -> bool:
        """True if the model predicts masks."""
        return bool(self.roi_heads.has_mask())

    @property
    def score_threshold(self) -> float:
        """The score that detections exceed, in evaluation: ``box_score_thresh``."""
        return float(self.roi_heads.score_thresh)

    @score_threshold.setter
    def score_threshold(self, threshold: float) -> None:
        self.roi_heads.score_thresh = threshold

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Return the losses in training, the detections of each image in evaluation.

        Args:
            images: each (C, H, W).
            targets: the ground truth of each image, in training: ``boxes`` (N, 4) as x1, y1, x2, y2
                in pixels, ``labels`` (N,) from 0 to K - 1, and for a model with masks ``masks``
                (N, H, W) of 0 and 1.

        Returns:
            In training the losses by name, to be added up. In evaluation for each image ``boxes``
            and ``labels`` as above, ``scores`` (N,), decreasing, and ``masks`` (N, H, W) bool.
        """
        if not self.training and not len(images):
            return []
        own = list(targets or ()) if self.training else None
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, own = self.transform(images, own)
        maps = self.backbone(batch.tensors, batch.image_sizes)
        detections, losses = self.detect_in(maps, batch, own)
        if self.training:
            return losses
        placed: list[Detections] = self.transform.postprocess(detections, batch.image_sizes, sizes)
        return placed

    def detect_in(
        self, maps: Sequence[Tensor], batch: ImageList, targets: Sequence[Target] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Return the detections of each image of a batch, and in training the losses.

        Args:
            maps: the output of the backbone.
            batch: the output of :class:`EvaluationSize`; boxes are in its pixels.
            targets: see :meth:`forward`.

        Returns:
            As :meth:`forward`, except that ``masks`` (N, 1, 28, 28) are probabilities within the
            boxes.
        """
        own = None if targets is None else [_shift_labels(target, 1) for target in targets]
        features = OrderedDict((str(level), one) for level, one in enumerate(maps))
        with nullcontext() if self.training or torch.jit.is_tracing() else TopKInOrder():
            proposals, losses = self.rpn(batch, features, own)
        detections, more = self.roi_heads(features, proposals, batch.image_sizes, own)
        return [_shift_labels(one, -1) for one in detections], {**losses, **more}


def _shift_labels(objects: Target, shift: int) -> Target:
    """Shift labels between ours and torchvision's, in which 0 is the background."""
    return {**objects, "labels": objects["labels"] + shift}


class KATDetector(Detector):
    """A detector whose transformer is a :class:`kat.models.KAT`.

    Examples:
        >>> import kat
        >>> from kat.models.dense import KATDetector
        >>> isinstance(kat.models.create_model("kat_det_micro"), KATDetector)
        True
    """

    transformer_class = KAT


class ViTDetector(Detector):
    """A detector whose transformer is a plain Vision Transformer.

    Examples:
        >>> import kat
        >>> from kat.models.dense import ViTDetector
        >>> isinstance(kat.models.create_model("vit_det_micro"), ViTDetector)
        True
    """

    transformer_class = ViT
