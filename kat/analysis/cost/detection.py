"""Detectors with a fixed number of boxes, so that their cost does not depend on the images."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kat.models.dense import Detector


def countable(model: nn.Module) -> nn.Module:
    """The model, or in place of a detector its layers as a model from images to a tensor."""
    return FixedBoxes(model) if isinstance(model, Detector) else model


class FixedBoxes(nn.Module):
    """The layers of a detector with the most boxes that it can have, whatever the images show.

    For each image in evaluation, all proposals that are kept pass through the box head, and all
    detections through the mask head (1000 and 100 by torchvision's defaults); in training, all
    boxes that are sampled, and the share of them that may be objects (512 and 128).

    Args:
        detector: whose layers keep their names.
    """

    rpn: Any
    roi_heads: Any

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.rpn = detector.backbone, detector.rpn
        self.roi_heads = detector.roi_heads

    def forward(self, images: Tensor) -> Tensor:
        """The finest feature map of images (B, C, H, W)."""
        maps = self.backbone(images)
        self.rpn.head(maps)
        heads = self.roi_heads
        boxes, masks = (len(images) * count for count in self._counts())
        channels = self.backbone.out_channels
        box = maps[0].new_zeros(boxes, channels, *heads.box_roi_pool.output_size)
        heads.box_predictor(heads.box_head(box))
        if heads.has_mask():
            mask = maps[0].new_zeros(masks, channels, *heads.mask_roi_pool.output_size)
            heads.mask_predictor(heads.mask_head(mask))
        return maps[0]

    def _counts(self) -> tuple[int, int]:
        sampler = self.roi_heads.fg_bg_sampler
        if self.training:
            boxes = sampler.batch_size_per_image
            return boxes, int(boxes * sampler.positive_fraction)
        return self.rpn.post_nms_top_n(), self.roi_heads.detections_per_img
