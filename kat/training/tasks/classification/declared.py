"""Image classification, as the command line, the settings and the reports know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kat.settings import Count
from kat.training.tasks.declared import Declared, Metric


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


DECLARED = Declared(
    name="classification",
    metrics=(Metric("top1", "top-1"), Metric("top5", "top-5")),
    eval_metrics=(
        Metric("top1", "top-1 %"),
        Metric("top5", "top-5 %"),
        Metric("loss", "loss", ".4f"),
        Metric("ece", "ECE", ".4f"),
        Metric("macro_recall", "macro recall %", in_table=False),
        Metric("macro_precision", "macro precision %", in_table=False),
        Metric("macro_f1", "macro F1 %", in_table=False),
        Metric("real_top1", "ReaL top-1 %", in_table=False),
        Metric("real_top5", "ReaL top-5 %", in_table=False),
    ),
    options={"evaluate": ClassificationOptions, "predict_images": ClassifyOptions},
    settings=(
        "augment",
        "loss",
        "model.drop",
        "data.holdout",
        "data.validate_on",
        "data.interpolation",
        "data.crop_pct",
    ),
    recipe="finetune",
    example_models="kat_tiny_patch16_224, kat_micro",
    on_cpu=("kat_micro", 224),
    on_gpu=("kat_tiny_patch16_224", 224),
    patches=(2, 4, 8),
    on_grid=False,
    entries="top",
    entry_figure="probability",
    draws=False,
)
