"""Detection and instance segmentation: the losses of Mask R-CNN, COCO's average precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision

from kat.data.dense import DetectionEvaluation, DetectionTraining
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.distributed import gather
from kat.training.tasks.task import ONLY_CLASSIFICATION, Metric, Metrics, Task, Transforms

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


class Detection(Task):
    """Objects with boxes and masks; the model is a :class:`kat.models.dense.Detector`."""

    name: ClassVar[str] = "detection"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("box_ap", "box AP"),
        Metric("mask_ap", "mask AP"),
        Metric("box_ap50", "box AP50"),
        Metric("mask_ap50", "mask AP50"),
    )
    example_models: ClassVar[str] = "kat_det_tiny, kat_det_micro"
    unused_settings: ClassVar[tuple[str, ...]] = ("segmentation", *ONLY_CLASSIFICATION)

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Resizing, flipping and cropping together with boxes and masks."""
        channels, size, _ = record.input_size
        training = DetectionTraining(size, config.detection, record.mean)
        return training, DetectionEvaluation(channels)

    def make_metrics(self) -> Metrics:
        """COCO's average precision."""
        return DetectionMetrics()

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """Images and their objects: the model returns its losses."""
        return images, labels

    def loss(self, output: dict[str, Tensor], labels: Any) -> Tensor:
        """The sum of the losses of proposals, classes, boxes and masks."""
        return torch.stack(list(output.values())).sum()

    def predict(self, model: nn.Module, images: Sequence[Tensor]) -> Iterator[Objects]:
        """The objects found in each image, one image after the other: masks are as large as it."""
        for image in images:
            yield model([image])[0]


class DetectionMetrics(Metrics):
    """COCO's average precision and recall of boxes and masks, in per cent, over all ranks.

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
        """Forgets everything."""
        self.precision.reset()
        self.figures = None

    def _compute(self) -> dict[str, Tensor]:
        """The figures over the images of all ranks, each of which may have another number.

        torchmetrics' own way, image by image, wants the same number in all.
        """
        if self.figures is None:
            parts = gather(_on_cpu(self.precision.metric_state))
            whole = _precision(self.precision.class_metrics)
            whole.update([], [])  # it warns of a metric that was given nothing
            for name in parts[0]:
                setattr(whole, name, [item for part in parts for item in part[name]])
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


def _on_cpu(state: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of a metric's state; other ranks have other devices."""
    return {
        name: [item.cpu() if isinstance(item, Tensor) else item for item in items]
        for name, items in state.items()
    }


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """COCO's run lengths of a mask (H, W), ready for JSON."""
    from faster_coco_eval.core import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def _per_cent(value: Tensor) -> Tensor:
    """COCO's -1 stands for nothing to count."""
    return torch.where(value < 0, math.nan, 100 * value)
