"""Data of detection and segmentation: images with boxes and masks."""

from kat.data.dense.coco.dataset import DetectionSet, Target, open_coco
from kat.data.dense.config import DetectionAugmentConfig, SegmentationAugmentConfig
from kat.data.dense.semantic.dataset import IGNORE, SemanticSet, open_semantic
from kat.data.dense.transforms import (
    DetectionEvaluation,
    DetectionTraining,
    SegmentationEvaluation,
    SegmentationTraining,
)

__all__ = [
    "IGNORE",
    "DetectionAugmentConfig",
    "DetectionEvaluation",
    "DetectionSet",
    "DetectionTraining",
    "SegmentationAugmentConfig",
    "SegmentationEvaluation",
    "SegmentationTraining",
    "SemanticSet",
    "Target",
    "open_coco",
    "open_semantic",
]
