"""Mask R-CNN and Faster R-CNN on a plain transformer, with ViTDet's heads."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from kat.errors import InputError, unknown
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.image_sizes import resized
from kat.models.dense.model import DenseModel, Features
from kat.models.dense.pyramid import SCALES, SimpleFeaturePyramid
from kat.models.kat import KAT
from kat.models.vit import ViT

Target = dict[str, Tensor]
"""The ground truth of an image: ``boxes`` (N, 4), ``labels`` (N,) and, for a model with masks,
``masks`` (N, H, W)."""

Detections = dict[str, Tensor]
"""A ``Target`` with ``scores`` (N,)."""

MASK_THRESHOLD = 0.5
"""The least probability at which a pixel belongs to an object."""

_RATIOS = (0.5, 1.0, 2.0)
_BOX_SIDE, _MASK_SIDE = 7, 14
_RCNN = frozenset(
    name
    for name, parameter in inspect.signature(FasterRCNN).parameters.items()
    if name.startswith(("rpn_", "box_")) and isinstance(parameter.default, int | float)
)
"""torchvision's settings of training and of the selection of boxes."""


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
        masks: whether the model has a head for masks.
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
    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
    optional_layers = ("roi_heads.mask_",)
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
        for name in rcnn or {}:
            if name not in _RCNN:
                raise unknown("entry of rcnn", name, _RCNN)
        neck = SimpleFeaturePyramid(body.vit.embed_dim, body.patch, channels, scales)
        strides, convs = neck.strides[:-1], [channels] * convolutions
        parts = {
            **_proposals(channels, neck.strides, anchor_scale),
            **_box_parts(channels, strides, convs, hidden, num_classes + 1),
        }
        mask_parts = _mask_parts(channels, strides, convs, num_classes + 1) if masks else {}
        super().__init__(Features(body, neck), **parts, **dict(rcnn or {}))
        for name, part in mask_parts.items():
            setattr(self.roi_heads, name, part)
        self.num_classes = num_classes
        sides = body.vit.patch_embed.img_size
        self.transform = EvaluationSize(
            min_size or min(sides), max_size or max(sides), in_chans, int(neck.strides[-1])
        )

    def set_image_size(self, side: int) -> None:
        """Sets the length of the longer side to which images are resized in evaluation."""
        self.transform.min_size, self.transform.max_size = (side,), side

    @property
    def has_masks(self) -> bool:
        """Whether the model predicts masks."""
        return bool(self.roi_heads.has_mask())

    @property
    def score_threshold(self) -> float:
        """The score that detections exceed, in evaluation: ``box_score_thresh``."""
        threshold: float = self.roi_heads.score_thresh
        return threshold

    @score_threshold.setter
    def score_threshold(self, threshold: float) -> None:
        self.roi_heads.score_thresh = threshold

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """The losses in training, the detections of each image in evaluation.

        Args:
            images: each (C, H, W).
            targets: the ground truth of each image, in training: ``boxes`` (N, 4) as x1, y1, x2, y2
                in pixels, ``labels`` (N,) from 0 to K - 1, and for a model with masks ``masks``
                (N, H, W) of 0 and 1.

        Returns:
            In training the losses by name, to be added up. In evaluation for each image ``boxes``
            and ``labels`` as above, ``scores`` (N,), decreasing, and ``masks`` (N, H, W) bool.

        Raises:
            InputError: in training no targets, or not one for each image; boxes without a width or
                height; labels of no class.
        """
        if self.training:
            _check_targets(images, targets, self.num_classes)
        if not len(images):
            return []
        own = list(targets or ()) if self.training else None
        sizes = [tuple(image.shape[-2:]) for image in images]
        batch, own = self.transform(images, own)
        detections, losses = self.detect(batch, own)
        if self.training:
            return losses
        placed: list[Detections] = self.transform.postprocess(detections, batch.image_sizes, sizes)
        return placed

    def detect(
        self, batch: ImageList, targets: Sequence[Target] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """The detections of each image of a batch, and in training the losses.

        Args:
            batch: the output of :class:`EvaluationSize`; boxes are in its pixels.
            targets: see :meth:`forward`.

        Returns:
            As :meth:`forward`, except that ``masks`` (N, 1, 28, 28) are probabilities within the
            boxes.
        """
        return self.detect_in(self.backbone(batch.tensors, batch.image_sizes), batch, targets)

    def detect_in(
        self, maps: Sequence[Tensor], batch: ImageList, targets: Sequence[Target] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """As :meth:`detect`, from the maps of the backbone."""
        own = None if targets is None else [_shift_labels(target, 1) for target in targets]
        features = OrderedDict((str(level), one) for level, one in enumerate(maps))
        with nullcontext() if self.training or torch.jit.is_tracing() else _TopKInOrder():
            proposals, losses = self.rpn(batch, features, own)
        detections, more = self.roi_heads(features, proposals, batch.image_sizes, own)
        return [_shift_labels(one, -1) for one in detections], {**losses, **more}


class _TopKInOrder(TorchFunctionMode):
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


def _check_targets(
    images: Sequence[Tensor], targets: Sequence[Target] | None, classes: int
) -> None:
    if targets is None or len(targets) != len(images):
        count = "none" if targets is None else str(len(targets))
        raise InputError(
            f"a detector needs a target for each of the {len(images)} images in training, got"
            f" {count}"
        )
    for index, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if not (boxes[:, 2:] > boxes[:, :2]).all():
            raise InputError(f"target {index} has boxes without a width or height (x1, y1, x2, y2)")
        if ((labels < 0) | (labels >= classes)).any():
            raise InputError(f"target {index} has labels that are none of the {classes} classes")


def _shift_labels(objects: Target, shift: int) -> Target:
    """Shifts labels between ours and torchvision's, in which 0 is the background."""
    return {**objects, "labels": objects["labels"] + shift}


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


def _proposals(channels: int, strides: Sequence[float], scale: float) -> dict[str, nn.Module]:
    """The region proposal network: two convolutions, and anchors of ``scale`` strides."""
    sizes = [(scale * stride,) for stride in strides]
    return {
        "rpn_anchor_generator": _Anchors(sizes, strides),
        "rpn_head": _ProposalHead(channels, len(_RATIOS), conv_depth=2),
    }


def _box_parts(
    channels: int, strides: Sequence[float], convs: list[int], hidden: int, classes: int
) -> dict[str, nn.Module]:
    """The head for boxes on maps of these strides, with layer norm."""
    region = (channels, _BOX_SIDE, _BOX_SIDE)
    return {
        "box_roi_pool": _roi_align(strides, _BOX_SIDE),
        "box_head": FastRCNNConvFCHead(region, convs, [hidden], norm_layer=LayerNorm2d),
        "box_predictor": _BoxPredictor(hidden, classes),
    }


def _mask_parts(
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
        no_change = [0.0] * channels, [1.0] * channels
        super().__init__(min_size, max_size, *no_change, size_divisible=step)

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """The resized image, and the target unchanged: there is none in evaluation."""
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
        """The detections in pixels of the original images, with masks (N, H, W) bool."""
        triples = zip(result, image_shapes, original_image_sizes, strict=True)
        return [
            placed_in_image({**one, "boxes": resize_boxes(one["boxes"], seen, size)}, size)
            for one, seen, size in triples
        ]


def placed_in_image(found: Detections, size: tuple[int, ...]) -> Detections:
    """Detections with masks (N, H, W) bool of an image, from probabilities within the boxes.

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
    return {**found, "masks": _paste(found["masks"], found["boxes"], size)}


def _paste(masks: Tensor, boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Masks (N, H, W) bool of an image, from probabilities (N, 1, h, w) within the boxes.

    One by one: the probabilities of 100 objects for all pixels of a large image need gigabytes.
    """
    pasted = torch.empty(len(boxes), *size, dtype=torch.bool, device=boxes.device)
    for whole, mask, box in zip(pasted, masks, boxes, strict=True):
        torch.ge(paste_masks_in_image(mask[None], box[None], size)[0, 0], MASK_THRESHOLD, out=whole)
    return pasted


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
