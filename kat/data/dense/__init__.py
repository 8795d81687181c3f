"""Data of detection and segmentation: images with boxes and masks."""

from kat.data.dense.coco import DetectionSet, Target, open_coco
from kat.data.dense.semantic import IGNORE, SemanticSet, open_semantic

__all__ = [
    "IGNORE",
    "DetectionSet",
    "SemanticSet",
    "Target",
    "open_coco",
    "open_semantic",
]
