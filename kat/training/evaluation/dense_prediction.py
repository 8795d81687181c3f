"""What detectors and segmentation models say of a single image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from kat.data import DevicePreparation
from kat.data.decoding import in_channels
from kat.data.dense.transforms import resized
from kat.models import ModelRecord
from kat.models.dense import SlidingWindowConfig, predicted_classes, sliding_window_inference
from kat.training.tasks.detection import Objects


@torch.inference_mode()
def find_objects(
    model: nn.Module, record: ModelRecord, image: Image.Image, threshold: float = 0.5
) -> Objects:
    """The objects that a detector finds in an image with at least this score, best first.

    Args:
        model: in evaluation mode.
        record: has mean and deviation of its images.
        image: is converted to the mode that the model takes.
        threshold: the least score.

    Returns:
        ``boxes`` (N, 4) x1, y1, x2, y2 and ``masks`` (N, H, W) bool in the image's own pixels,
        ``labels`` (N,), ``scores`` (N,).
    """
    pixels = pil_to_tensor(in_channels(image, record.input_size[0]))
    prepared = DevicePreparation(record.mean, record.std)(pixels[None])
    with _nothing_below(model, threshold):
        found: Any = model(prepared)[0]
    kept = found["scores"] >= threshold
    return {name: found[name][kept] for name in ("boxes", "labels", "scores", "masks")}


@contextmanager
def _nothing_below(detector: Any, threshold: float) -> Iterator[None]:
    """Has a detector drop what scores less before it draws the masks, each as large as the image.

    The others are the same: what scores less takes nothing away from what scores more.
    """
    own = detector.score_threshold
    # torchvision wants more than its threshold, we at least ours
    detector.score_threshold = max(own, float(np.nextafter(np.float32(threshold), np.float32(-1))))
    try:
        yield
    finally:
        detector.score_threshold = own


def find_classes(
    model: nn.Module, record: ModelRecord, image: Image.Image, how: SlidingWindowConfig
) -> Tensor:
    """The class of each pixel of an image: (H, W) int64.

    Args:
        model: in evaluation mode.
        record: has size, mean and deviation of its images.
        image: is converted to the mode that the model takes.
        how: windows, scales, mirror images.
    """
    channels, size, _ = record.input_size
    pixels = resized(image, size, channels)
    prepared = DevicePreparation(record.mean, record.std)(pixels[None])[0]
    return predicted_classes(
        sliding_window_inference(model, prepared, how), (image.height, image.width)
    )
