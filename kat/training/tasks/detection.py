"""Detection and instance segmentation: the losses of Mask R-CNN, COCO's average precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from kat.models import ModelRecord
from kat.training.distributed import gather
from kat.training.module import TaskModule
from kat.training.tasks.metrics import Score, Scores, set_metric_state

Objects = dict[str, Tensor]
"""What is found in an image, or what is there; see :class:`kat.models.dense.Detector`."""

_NO_AREA = 1e-9
"""What stands for an area of 0, which torchmetrics would take for one that is not known."""

_FIGURES = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
    "ar": "mar_100",
}
"""Our names of COCO's figures, and torchmetrics'."""
_KINDS = {"box": "bbox", "mask": "segm"}


class DetectionModule(TaskModule):
    """Trains and validates a detector.

    Args:
        model: a :class:`kat.models.dense.Detector`.
        record: describes the model; stored in every checkpoint.
        config: the run's settings.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("box_ap", "box AP"),
        Score("mask_ap", "mask AP"),
        Score("box_ap50", "box AP50"),
        Score("mask_ap50", "mask AP50"),
    )

    def make_scores(self, record: ModelRecord) -> Scores:
        """COCO's average precision."""
        return DetectionScores()

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """Images and what is in them: the model gives its losses."""
        return images, labels

    def forward(self, images: Sequence[Tensor]) -> Iterator[Objects]:
        """What is found in each image, one after the other: masks are as large as it."""
        for image in images:
            yield self.model([image])[0]

    def loss(self, output: dict[str, Tensor], labels: Any) -> Tensor:
        """The sum of the losses of proposals, classes, boxes and masks."""
        return torch.stack(list(output.values())).sum()


class DetectionScores(Scores):
    """COCO's average precision and recall of boxes and masks, in per cent, over all processes.

    Figures are those of ``_FIGURES``; one that no object counts to, such as that of large
    objects where there are none, is NaN.

    Args:
        by_class: whether :meth:`by_class` is to be asked.
    """

    def __init__(self, by_class: bool = False) -> None:
        super().__init__()
        self.precision = _precision(by_class)
        self.figures: dict[str, Tensor] | None = None
        """What torchmetrics gives for what was counted, once it was asked."""

    def update(self, output: Iterable[Objects], labels: Sequence[Objects]) -> None:
        """Counts what was found in images of their original size, one after the other."""
        for _ in map(self._count, output, labels):  # zip keeps the last until it has the next
            self.figures = None

    def _count(self, found: Objects, there: Objects) -> None:
        """Counts what was found in an image; only the run lengths of its masks are kept."""
        area = there["area"].clamp(min=_NO_AREA)
        self.precision.update([found], [{**there, "masks": there["masks"].bool(), "area": area}])

    def compute(self) -> dict[str, Tensor]:
        """The figures by name, e.g. ``box_ap50``."""
        given = self._compute()
        return {
            f"{kind}_{name}": _per_cent(given[f"{prefix}_{key}"])
            for kind, prefix in _KINDS.items()
            for name, key in _FIGURES.items()
        }

    def by_class(self) -> dict[int, dict[str, float]]:
        """Box and mask AP of each class that has objects, by its index."""
        given = self._compute()
        classes = given["classes"].reshape(-1).tolist()
        parts = {
            f"{kind}_ap": _per_cent(given[f"{prefix}_map_per_class"]).reshape(-1).tolist()
            for kind, prefix in _KINDS.items()
        }
        return {
            index: {name: values[place] for name, values in parts.items()}
            for place, index in enumerate(classes)
        }

    def reset(self) -> None:
        """Forgets all."""
        self.precision.reset()
        self.figures = None

    def _compute(self) -> dict[str, Tensor]:
        """The figures over the images of all processes, each of which may have another number.

        torchmetrics' own way, image by image, wants the same number in all.
        """
        if self.figures is None:
            parts = gather(
                {name: _on_cpu(self.precision, name) for name in self.precision._defaults}
            )
            joined = {name: [one for part in parts for one in part[name]] for name in parts[0]}
            whole = _precision(self.precision.class_metrics)
            set_metric_state(whole, {**joined, "_update_count": 1})
            self.figures = whole.compute()
        return self.figures


def _precision(by_class: bool) -> MeanAveragePrecision:
    """torchmetrics' metric over what this process alone has counted."""
    metric = MeanAveragePrecision(
        iou_type=("bbox", "segm"),
        class_metrics=by_class,
        backend="faster_coco_eval",
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    return metric


def _on_cpu(metric: MeanAveragePrecision, name: str) -> list[Any]:
    """A list that a metric keeps; other processes have other devices."""
    items: list[Any] = getattr(metric, name)
    return [item.cpu() if isinstance(item, Tensor) else item for item in items]


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """COCO's run lengths of a mask (H, W), ready for JSON."""
    from faster_coco_eval.core import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def _per_cent(value: Tensor) -> Tensor:
    """COCO's -1 stands for nothing to count."""
    return torch.where(value < 0, math.nan, 100 * value)
