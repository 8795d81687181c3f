"""Detection, as the command line, the settings and the reports know it."""

from __future__ import annotations

from dataclasses import dataclass

from kat.settings import Probability
from kat.training.tasks.declared import Declared, Metric, NoOptions, StartModel


@dataclass
class DetectOptions:
    """Options of the predictions of a detector.

    Args:
        threshold: lowest score of the objects that are kept.
    """

    threshold: Probability = 0.5


def _coco_metrics(kind: str) -> tuple[Metric, ...]:
    """Return COCO's metrics of boxes or masks."""
    return (
        Metric(f"{kind}_ap", f"{kind} AP"),
        Metric(f"{kind}_ap50", f"{kind} AP50"),
        Metric(f"{kind}_ap75", f"{kind} AP75", in_table=False),
        Metric(f"{kind}_ap_small", f"{kind} AP small", in_table=False),
        Metric(f"{kind}_ap_medium", f"{kind} AP medium", in_table=False),
        Metric(f"{kind}_ap_large", f"{kind} AP large", in_table=False),
        Metric(f"{kind}_ar", f"{kind} AR", in_table=False),
    )


DECLARED = Declared(
    name="detection",
    metrics=(
        Metric("box_ap", "box AP"),
        Metric("mask_ap", "mask AP"),
        Metric("box_ap50", "box AP50"),
        Metric("mask_ap50", "mask AP50"),
    ),
    eval_metrics=_coco_metrics("box") + _coco_metrics("mask"),
    options={"evaluate": NoOptions, "predict_images": DetectOptions},
    settings=("detection", "data.bad_annotations", "data.boxes_only"),
    recipe="finetune_detection",
    example_models="kat_det_tiny, kat_det_micro",
    on_cpu=StartModel("kat_det_micro", 256),
    on_gpu=StartModel("kat_det_tiny", 640),
    longer_side=True,
    entries="objects",
    entry_figure="score",
    ranked=False,
)
