"""The metrics and the options of each task, which the command line reads without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from kat.settings import Count, Probability
from kat.sliding_window import SlidingWindowConfig


class Metric(NamedTuple):
    """One metric; higher is better, except for losses and errors of an evaluation.

    Args:
        name: name in logs, the history and files.
        label: name in printed text and figures.
        format: format specification of its value.
        in_table: it is a column of a printed table of checkpoints.
    """

    name: str
    label: str
    format: str = ".2f"
    in_table: bool = True


@dataclass
class ClassificationOptions:
    """Preprocessing in place of what is stored with a classifier, and ImageNet's other labels.

    Args:
        crop_pct: the share of the resized image that the central crop keeps.
        interpolation: how images are resized.
        mean: the mean of each channel, after scaling pixels to [0, 1].
        std: the standard deviation of each channel.
        real_labels: also evaluate on ImageNet's reassessed labels: the path of real.json, or
            ``timm`` for the copy that timm ships.
    """

    crop_pct: float | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    real_labels: str | None = None


@dataclass
class ClassifyOptions:
    """Options of the predictions of a classifier.

    Args:
        batch_size: images at a time.
        top: number of the most likely classes.
    """

    batch_size: Count = 32
    top: Count = 5


@dataclass
class DetectOptions:
    """Options of the predictions of a detector.

    Args:
        threshold: lowest score of the objects that are kept.
    """

    threshold: Probability = 0.5


@dataclass
class NoOptions:
    """The options of a task that has none of its own."""


METRICS = {
    "classification": (Metric("top1", "top-1"), Metric("top5", "top-5")),
    "detection": (
        Metric("box_ap", "box AP"),
        Metric("mask_ap", "mask AP"),
        Metric("box_ap50", "box AP50"),
        Metric("mask_ap50", "mask AP50"),
    ),
    "segmentation": (
        Metric("miou", "mIoU"),
        Metric("pixel_accuracy", "pixel accuracy"),
        Metric("class_accuracy", "class accuracy"),
    ),
}
"""The metrics of a validation by task, besides the loss; the first selects the best checkpoint."""
Which = Literal["evaluate", "predict_images"]
OPTIONS: dict[str, dict[Which, type]] = {
    "classification": {"evaluate": ClassificationOptions, "predict_images": ClassifyOptions},
    "detection": {"evaluate": NoOptions, "predict_images": DetectOptions},
    "segmentation": {"evaluate": SlidingWindowConfig, "predict_images": SlidingWindowConfig},
}
"""The own options of each task, dataclasses, by the method of the task that takes them."""
