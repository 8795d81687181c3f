"""KAT and ViT for dense tasks: a backbone for images of any size, with Mask R-CNN or UperNet.

Examples:
    >>> import torch
    >>> import kat
    >>> model = kat.models.create_model("kat_upernet_micro", num_classes=5).eval()
    >>> model(torch.randn(1, 3, 64, 96)).shape
    torch.Size([1, 5, 64, 96])
"""

from kat.models.dense import variants
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.detector import Detector, KATDetector, ViTDetector
from kat.models.dense.model import DenseModel, Features
from kat.models.dense.pyramid import MultiLevel, SimpleFeaturePyramid
from kat.models.dense.rcnn_parts import EvaluationSize, placed_in_image
from kat.models.dense.sliding_window import (
    SlidingWindowConfig,
    predicted_classes,
    resized_strips,
    sliding_window_inference,
)
from kat.models.dense.upernet import KATUperNet, UperNet, ViTUperNet
from kat.models.task import task_of

__all__ = [
    "DenseBackbone", "DenseModel", "Detector", "EvaluationSize", "Features", "KATDetector",
    "KATUperNet", "MultiLevel", "SimpleFeaturePyramid", "SlidingWindowConfig", "UperNet",
    "ViTDetector", "ViTUperNet", "placed_in_image", "predicted_classes",
    "resized_strips", "sliding_window_inference", "task_of", "variants",
]  # fmt: skip
