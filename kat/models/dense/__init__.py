"""KAT and ViT for dense tasks: a backbone for images of any size, Mask R-CNN and UperNet on it."""

from kat.models.dense import variants
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.detector import Detector, EvaluationSize, KATDetector, ViTDetector
from kat.models.dense.heads_transfer import Surroundings
from kat.models.dense.model import DenseModel, Features, task_of
from kat.models.dense.pyramid import MultiLevel, SimpleFeaturePyramid
from kat.models.dense.sliding_window import (
    SegmentConfig,
    check_segment,
    most_likely,
    segment,
    strips,
)
from kat.models.dense.upernet import KATUperNet, UperNet, ViTUperNet

__all__ = [
    "DenseBackbone",
    "DenseModel",
    "Detector",
    "EvaluationSize",
    "Features",
    "KATDetector",
    "KATUperNet",
    "MultiLevel",
    "SegmentConfig",
    "SimpleFeaturePyramid",
    "Surroundings",
    "UperNet",
    "ViTDetector",
    "ViTUperNet",
    "check_segment",
    "most_likely",
    "segment",
    "strips",
    "task_of",
    "variants",
]
