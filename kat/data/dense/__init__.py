"""Data for detection and segmentation: images with boxes and masks."""

from kat.data.dense.coco.dataset import DetectionDataset, Target, open_coco
from kat.data.dense.config import (
    DetectionAugmentConfig,
    SegmentationAugmentConfig,
    check_detection,
    check_segmentation,
)
from kat.data.dense.segmentation.dataset import IGNORE, SegmentationDataset, open_segmentation
from kat.data.dense.transforms import (
    DetectionEvalTransform,
    DetectionTrainTransform,
    SegmentationEvalTransform,
    SegmentationTrainTransform,
)

__all__ = [
    "IGNORE",
    "DetectionAugmentConfig",
    "DetectionDataset",
    "DetectionEvalTransform",
    "DetectionTrainTransform",
    "SegmentationAugmentConfig",
    "SegmentationDataset",
    "SegmentationEvalTransform",
    "SegmentationTrainTransform",
    "Target",
    "check_detection",
    "check_segmentation",
    "open_coco",
    "open_segmentation",
]
