"""Detection, as the command line, the settings and the reports know it."""

from __future__ import annotations

from dataclasses import dataclass

from kat.settings import Probability
from kat.training.tasks.declared import Declared, Metric, NoOptions


@dataclass
class DetectOptions:
    """Options of the predictions of a detector.

    Args:
        threshold: lowest score of the objects that are kept.
    """

    threshold: Probability = 0.5


_COCO = (
    Metric("ap", "AP"),
    Metric("ap50", "AP50"),
    Metric("ap75", "AP75", in_table=False),
    Metric("ap_small", "AP small", in_table=False),
    Metric("ap_medium", "AP medium", in_table=False),
    Metric("ap_large", "AP large", in_table=False),
    Metric("ar", "AR", in_table=False),
)


def _coco_metrics(kind: str) -> tuple[Metric, ...]:
    """Return COCO's metrics of boxes or masks."""
    return tuple(
        one._replace(name=f"{kind}_{one.name}", label=f"{kind} {one.label}") for one in _COCO
    )


_BOXES, _MASKS = _coco_metrics("box"), _coco_metrics("mask")

DECLARED = Declared(
    name="detection",
    metrics=(_BOXES[0], _MASKS[0], _BOXES[1], _MASKS[1]),
    eval_metrics=_BOXES + _MASKS,
    options={"evaluate": NoOptions, "predict_images": DetectOptions},
    settings=("detection", "data.bad_annotations", "data.boxes_only"),
    recipe="finetune_detection",
    example_models="kat_det_tiny, kat_det_micro",
    on_cpu=("kat_det_micro", 256),
    on_gpu=("kat_det_tiny", 640),
    longer_side=True,
    entries="objects",
    entry_figure="score",
    ranked=False,
)
