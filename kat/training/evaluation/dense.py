"""The evaluation of detectors and segmentation models: one pass, and all that follows from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from kat.data import Batch, DataConfig, DevicePreparation, ImageSet, open_split
from kat.data.dense import DetectionEvaluation, DetectionSet, SegmentationEvaluation, SemanticSet
from kat.errors import InputError
from kat.models import ModelRecord
from kat.models.dense import SlidingWindowConfig, check_sliding_window, sliding_window_inference
from kat.training.evaluation.class_match import match_classes
from kat.training.evaluation.classification import (
    EvalConfig,
    batches_of,
    check_device,
    precision_of,
)
from kat.training.tasks.detection import DetectionScores, Objects, encode_mask
from kat.training.tasks.registry import check_task
from kat.training.tasks.segmentation import SegmentationScores

_NOTHING = "note: no object was found; pycocotools cannot read files of results without one"

_LOADED = 8
"""The most images that are loaded at once: each is as large as it comes."""


@dataclass
class DenseEvaluation:
    """What a model for a dense task gives on a data set.

    Args:
        classes: the class names.
        metrics: in per cent; of detection those of :class:`.tasks.detection.DetectionScores`,
            of segmentation those of :class:`kat.training.tasks.segmentation.SegmentationScores`.
        by_class: ``box_ap`` and ``mask_ap``, or ``iou``, of each class that has any.
        images: how many were evaluated.
        unreadable: the files that could not be, and why.
        seconds: wall time of the pass, loading included.
        notes: what a user should know of it, one line each.
        results: of detection, every object found, as COCO's results files have them: by ``bbox``
            and ``segm``.
        confusion: of segmentation, (K, K) pixels of each class taken for each.
    """

    classes: list[str]
    metrics: dict[str, float]
    by_class: dict[str, dict[str, float]]
    images: int
    unreadable: dict[str, str]
    seconds: float
    notes: list[str]
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    confusion: Tensor | None = None


def evaluate_dense(
    model: nn.Module,
    record: ModelRecord,
    data: DataConfig,
    config: EvalConfig | None = None,
    how: SlidingWindowConfig | None = None,
    *,
    source: str = "the model",
) -> DenseEvaluation:
    """Runs a detector or a segmentation model over the validation split of a data set.

    Args:
        model: moved to the device.
        record: its classes, and mean and deviation of its images.
        data: where the images are, and how they are loaded; the model sees one at a time.
        config: how to run the model.
        how: of segmentation: windows, scales, mirror images.
        source: what to call the model in an error.

    Raises:
        InputError: settings out of range, data for another task or with other classes, no image
            that can be read.
    """
    config, how = config or EvalConfig(), how or SlidingWindowConfig()
    check_sliding_window(how)
    images = open_split(data, "val")
    check_task(model, images, (source, data.name))
    assert isinstance(images, DetectionSet | SemanticSet)
    columns, _, notes = match_classes(record.classes, images.classes)
    if len(columns) < len(record.classes):
        raise InputError(
            f"{source} knows {len(record.classes)} classes and {data.name} has {len(columns)}"
        )
    device = check_device(model, config)
    start = time.perf_counter()
    counted = _Pass(model.to(device).eval(), record, data, config, torch.tensor(columns), device)
    if isinstance(images, DetectionSet):
        found = _detect(images, counted)
    else:
        found = _segment(images, counted, how)
    found.seconds = time.perf_counter() - start
    found.notes = [*notes, *filter(None, [images.note]), *found.notes]
    return found


class _Pass:
    """One pass over the images of a split, prepared for the model.

    Args:
        model: on its device.
        record, data, config: see :func:`evaluate_dense`.
        columns: (K,) int64, where each class of the data is among the model's, which has K too.
        device: the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        record: ModelRecord,
        data: DataConfig,
        config: EvalConfig,
        columns: Tensor,
        device: torch.device,
    ) -> None:
        self.model = model
        self.columns = columns
        self.device = device
        self.prepare = DevicePreparation(record.mean, record.std)
        self.data = replace(data, batch_size=min(data.batch_size, _LOADED))
        self.config = config
        self.channels, self.size, _ = record.input_size
        self.images = 0
        self.unreadable: dict[str, str] = {}

    def each(self, images: ImageSet) -> Iterator[tuple[Tensor, Any]]:
        """Each normalised image (C, H, W), on the device, and its target."""
        chosen = images if self.config.limit is None else images.spread(self.config.limit)
        for batch in batches_of(chosen, self.data, self.config.progress):
            self._note(batch)
            for image, target in zip(batch.images, batch.labels, strict=True):
                self.images += 1
                yield self.prepare(image[None].to(self.device))[0], target
        if not self.images:
            raise InputError("the validation split has no image that can be read")

    def _note(self, batch: Batch) -> None:
        if batch.unreadable and self.data.bad_images == "fail":
            name, reason = batch.unreadable[0]
            raise InputError(f"{name} cannot be read: {reason}")
        self.unreadable |= dict(batch.unreadable)


@torch.inference_mode()
def _detect(images: DetectionSet, counted: _Pass) -> DenseEvaluation:
    images.transform = DetectionEvaluation(counted.channels)
    scores = DetectionScores(by_class=True)
    results: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
    labels = counted.columns.argsort()
    for image, target in counted.each(images):
        with precision_of(counted.device, counted.config):
            (found,) = counted.model([image])
        found = {name: value.cpu() for name, value in found.items()}
        found["labels"] = labels[found["labels"]]
        scores.update([found], [target])
        for kind, rows in coco_results(found, int(target["image_id"]), images).items():
            results[kind] += rows
    by_class = {images.classes[index]: row for index, row in scores.by_class().items()}
    notes = [] if results["bbox"] else [_NOTHING]
    return _found(images, scores.compute(), by_class, counted, notes, results=results)


@torch.inference_mode()
def _segment(images: SemanticSet, counted: _Pass, how: SlidingWindowConfig) -> DenseEvaluation:
    images.transform = SegmentationEvaluation(counted.size, counted.channels)
    scores = SegmentationScores(len(images.classes)).to(counted.device)
    columns = counted.columns.to(counted.device)
    for image, mask in counted.each(images):
        with precision_of(counted.device, counted.config):
            answer = sliding_window_inference(counted.model, image, how)
        scores.update([answer[columns]], [mask.to(counted.device)])
    named = zip(images.classes, scores.by_class().tolist(), strict=True)
    by_class = {name: {"iou": 100 * iou} for name, iou in named}
    confusion = scores.confusion.compute().cpu()
    notes = scores.notes(images.classes)
    return _found(images, scores.compute(), by_class, counted, notes, confusion=confusion)


def _found(
    images: ImageSet,
    scores: dict[str, Tensor],
    by_class: dict[str, dict[str, float]],
    counted: _Pass,
    notes: list[str],
    **more: Any,
) -> DenseEvaluation:
    metrics = {name: float(value) for name, value in scores.items()}
    left_out = images.ignored | counted.unreadable
    return DenseEvaluation(
        images.classes, metrics, by_class, counted.images, left_out, 0.0, notes, **more
    )


def coco_results(
    objects: Objects, image_id: int, images: DetectionSet
) -> dict[str, list[dict[str, Any]]]:
    """What was found in an image, as entries of COCO's results files: of ``bbox``, and of ``segm``.

    These are apart, since COCO's evaluator takes the area of an entry from its box, if it has one.

    Args:
        objects: boxes, labels, scores and masks in the image's own pixels, on the CPU.
        image_id: as the file of annotations has it.
        images: knows the ids of the categories.
    """
    found = [
        {"image_id": image_id, "category_id": images.category_id(label), "score": score}
        for label, score in zip(objects["labels"].tolist(), objects["scores"].tolist(), strict=True)
    ]
    boxes = box_convert(objects["boxes"], "xyxy", "xywh").tolist()
    masks = [encode_mask(mask) for mask in objects["masks"]]
    return {
        "bbox": [{**one, "bbox": box} for one, box in zip(found, boxes, strict=True)],
        "segm": [{**one, "segmentation": mask} for one, mask in zip(found, masks, strict=True)],
    }
