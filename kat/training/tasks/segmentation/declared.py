"""Semantic segmentation, as the command line, the settings and the reports know it."""

from __future__ import annotations

from kat.sliding_window import SlidingWindowConfig
from kat.training.tasks.declared import Declared, Metric

DECLARED = Declared(
    name="segmentation",
    metrics=(
        Metric("miou", "mIoU"),
        Metric("pixel_accuracy", "pixel accuracy"),
        Metric("class_accuracy", "class accuracy"),
    ),
    eval_metrics=(
        Metric("miou", "mIoU"),
        Metric("pixel_accuracy", "pixels %"),
        Metric("class_accuracy", "classes %", in_table=False),
        Metric("loss", "loss", ".4f"),
    ),
    options={"evaluate": SlidingWindowConfig, "predict_images": SlidingWindowConfig},
    settings=("segmentation", "data.bad_annotations"),
    recipe="finetune_segmentation",
    example_models="kat_upernet_tiny, ..._micro",
    on_cpu=("kat_upernet_micro", 128),
    on_gpu=("kat_upernet_tiny", 512),
    entries="classes",
    entry_figure="share",
)
