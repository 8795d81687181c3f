"""Data for detection and segmentation: images with boxes and masks."""

from kat.data.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.detection import DetectionDataset, Target, open_coco
from kat.data.dense.segmentation import IGNORE, SegmentationDataset, open_segmentation
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
    "open_coco",
    "open_segmentation",
]
