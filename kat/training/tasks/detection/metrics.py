"""COCO average precision over all ranks, and COCO result files."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_convert

from kat.data.dense import DetectionDataset
from kat.training.cluster.collectives import gather
from kat.training.tasks.task import Metrics

Objects = dict[str, Tensor]
"""Detected or annotated objects of an image; see :class:`kat.models.dense.Detector`."""

_NO_AREA = 1e-9
"""Replaces an area of 0, which torchmetrics would treat as unknown."""

_THEIR_NAMES = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
    "ar": "mar_100",
}
"""COCO metrics by name: their names in torchmetrics."""

KINDS: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
"""Boxes and masks, with their names in COCO's tools."""


def kinds_of(has_masks: bool) -> tuple[str, ...]:
    """Return the kinds that are compared, with masks or without."""
    return ("box", "mask") if has_masks else ("box",)


class DetectionMetrics(Metrics):
    """COCO average precision and recall of boxes and masks, in percent, over all ranks.

    A metric without objects, such as AP large if there are no large objects, is NaN.

    Args:
        kinds: the kinds that are compared: ``box``, or ``box`` and ``mask``.
        by_class: :meth:`by_class` will be called.
    """

    def __init__(self, kinds: Sequence[str] = ("box", "mask"), by_class: bool = False) -> None:
        super().__init__()
        self.precision = _precision(kinds, by_class)
        self.prefixes = {kind: f"{KINDS[kind]}_" for kind in kinds}
        """The prefixes of torchmetrics' names, by kind."""
        if len(kinds) == 1:
            self.prefixes = dict.fromkeys(kinds, "")
        self.figures: dict[str, Tensor] | None = None
        """The cached result of torchmetrics for the images so far."""

    def update(self, output: Iterable[Objects], labels: Sequence[Objects]) -> None:
        """Add the objects of images at their original size, one image at a time."""
        # zip would keep an image's objects until the next ones are computed
        for _ in map(self._count, output, labels):
            self.figures = None

    def _count(self, found: Objects, there: Objects) -> None:
        """Add the objects of an image; torchmetrics keeps only the run lengths of their masks."""
        there = {**there, "area": there["area"].clamp(min=_NO_AREA)}
        if "mask" in self.prefixes:
            there["masks"] = there["masks"].bool()
        self.precision.update([found], [there])

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, e.g. ``box_ap50``."""
        given = self._compute()
        figures = {}
        for kind, prefix in self.prefixes.items():
            for name, key in _THEIR_NAMES.items():
                figures[f"{kind}_{name}"] = _per_cent(given[f"{prefix}{key}"])
        return figures

    def by_class(self) -> dict[int, dict[str, float]]:
        """Return the APs, e.g. ``box_ap``, of each class with objects, by class index."""
        given = self._compute()
        found: dict[int, dict[str, float]]
        found = {index: {} for index in given["classes"].reshape(-1).tolist()}
        for kind, prefix in self.prefixes.items():
            values = _per_cent(given[f"{prefix}map_per_class"]).reshape(-1).tolist()
            for figures, value in zip(found.values(), values, strict=True):
                figures[f"{kind}_ap"] = value
        return found

    def reset(self) -> None:
        """Reset the metrics to their initial state."""
        super().reset()
        self.figures = None

    def _compute(self) -> dict[str, Tensor]:
        """torchmetrics' result over the images of all ranks.

        The ranks may have different numbers of images, which torchmetrics' own synchronization
        does not support.
        """
        if self.figures is None:
            state = self.precision.metric_state
            parts = gather({name: _on_cpu(items) for name, items in state.items()})
            whole = _precision(list(self.prefixes), self.precision.class_metrics)
            whole.update([], [])  # else it warns that it was never updated
            for name in parts[0]:
                setattr(whole, name, list(chain.from_iterable(part[name] for part in parts)))
            self.figures = whole.compute()
        return self.figures


def _precision(kinds: Sequence[str], by_class: bool) -> MeanAveragePrecision:
    """Make torchmetrics' metric, without synchronization between processes."""
    metric = MeanAveragePrecision(
        iou_type=tuple(KINDS[kind] for kind in kinds),
        class_metrics=by_class,
        backend="faster_coco_eval",
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    return metric


def _on_cpu(items: Iterable[Any]) -> list[Any]:
    """Move the tensors among items to the CPU, since other ranks have other devices."""
    moved = []
    for item in items:
        moved.append(item.cpu() if isinstance(item, Tensor) else item)
    return moved


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Encode a mask (H, W) as COCO run lengths, as JSON types."""
    from faster_coco_eval.core import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def _per_cent(value: Tensor) -> Tensor:
    """Convert to percent; COCO's -1, a metric without objects, becomes NaN."""
    return torch.where(value < 0, math.nan, 100 * value)


def coco_results(
    objects: Objects, image_id: int, images: DetectionDataset
) -> Mapping[str, list[dict[str, Any]]]:
    """Return the detected objects of an image as entries of COCO result files: ``bbox``, ``segm``.

    There are two files because COCO's evaluator takes the area of an entry from its box, if it has
    one.

    Args:
        objects: boxes, labels, scores and any masks in pixels of the original image, on the CPU.
        image_id: id of the image in the annotation file.
        images: dataset with the category ids.
    """
    results = defaultdict(list)
    boxes = box_convert(objects["boxes"], "xyxy", "xywh").tolist()
    for i, (label, score) in enumerate(zip(objects["labels"], objects["scores"], strict=True)):
        category = images.category_ids[label]
        one = {"image_id": image_id, "category_id": category, "score": score.item()}
        results["bbox"].append({**one, "bbox": boxes[i]})
        if "masks" in objects:
            results["segm"].append({**one, "segmentation": encode_mask(objects["masks"][i])})
    return results
