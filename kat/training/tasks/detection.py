"""Detection and instance segmentation: R-CNN losses, COCO average precision."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_convert
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kat.data import DataConfig, DeviceTransform, ImageDataset, ImageStream
from kat.data.decoding import in_channels
from kat.data.dense import DetectionDataset, DetectionEvalTransform, DetectionTrainTransform
from kat.data.dense.dataset import no_transform
from kat.data.dense.drawing import caption_factor, draw_objects
from kat.errors import InputError
from kat.models import ModelRecord
from kat.settings import Probability
from kat.training.config import TrainConfig
from kat.training.distributed import gather
from kat.training.evaluation.class_match import match_classes
from kat.training.evaluation.evaluation import (
    EvalConfig,
    Evaluation,
    Subject,
    Table,
    device_of_weights,
)
from kat.training.evaluation.image_pass import ImagePass
from kat.training.evaluation.prediction import Prediction
from kat.training.tasks.task import (
    ONLY_CLASSIFICATION,
    Metric,
    Metrics,
    NoOptions,
    Task,
    Transforms,
)

Objects = dict[str, Tensor]
"""Detected or annotated objects of an image; see :class:`kat.models.dense.Detector`."""

_NO_AREA = 1e-9
"""Replaces an area of 0, which torchmetrics would treat as unknown."""

_FIGURES = {
    "ap": ("AP", "map"),
    "ap50": ("AP50", "map_50"),
    "ap75": ("AP75", "map_75"),
    "ap_small": ("AP small", "map_small"),
    "ap_medium": ("AP medium", "map_medium"),
    "ap_large": ("AP large", "map_large"),
    "ar": ("AR", "mar_100"),
}
"""COCO metrics by name: their labels, and their names in torchmetrics."""
_KINDS: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
"""What is compared, with its name in COCO's tools."""


BOX_AP_BY_OVERLAP = "box_ap_by_iou"
"""The table of an evaluation with the box AP of each class by the least IoU of a hit."""


def kinds_of(has_masks: bool) -> tuple[str, ...]:
    """What is compared, with masks or without."""
    return ("box", "mask") if has_masks else ("box",)


_NOTHING = "note: no object was found; pycocotools cannot read files of results without one"
_AREAS = ("small", "medium", "large")


@dataclass
class DetectOptions:
    """How a detector predicts.

    Args:
        threshold: lowest score of the objects that are kept.
    """

    threshold: Probability = 0.5


class Detection(Task):
    """Objects with boxes and perhaps masks; the model is a :class:`kat.models.dense.Detector`."""

    name: ClassVar[str] = "detection"
    metrics: tuple[Metric, ...] = (
        Metric("box_ap", "box AP"),
        Metric("mask_ap", "mask AP"),
        Metric("box_ap50", "box AP50"),
        Metric("mask_ap50", "mask AP50"),
    )
    example_models: ClassVar[str] = "kat_det_tiny, kat_det_micro"
    unused_settings: ClassVar[tuple[str, ...]] = ("segmentation", *ONLY_CLASSIFICATION)
    eval_metrics: ClassVar[tuple[Metric, ...]] = tuple(
        Metric(f"{kind}_{name}", f"{kind} {label}", in_table=name in ("ap", "ap50"))
        for kind in _KINDS
        for name, (label, _) in _FIGURES.items()
    )
    EvalOptions: ClassVar[type] = NoOptions
    PredictOptions: ClassVar[type] = DetectOptions
    entries: ClassVar[str] = "objects"
    entry_figure: ClassVar[str] = "score"
    ranked: ClassVar[bool] = False

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        super().__init__(config, record)
        self.kinds = kinds_of(predicts_masks(record))
        self.metrics = tuple(m for m in type(self).metrics if m.name.startswith(self.kinds))

    @classmethod
    def model_args(cls, given: dict[str, Any], training: Any, validation: Any) -> dict[str, Any]:
        """A detector has masks if the data has."""
        if training.has_masks and not validation.has_masks:
            raise InputError(
                "the annotations of the train split have masks, those of the val split have none:"
                " data.boxes_only=true trains on boxes alone"
            )
        same = given.get("masks", True) == training.has_masks
        return given if same else {**given, "masks": training.has_masks}

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Resizes, flips and crops images with their boxes and masks."""
        channels, size, _ = record.input_size
        training = DetectionTrainTransform(size, config.detection, record.mean)
        return training, DetectionEvalTransform(channels)

    def make_metrics(self) -> Metrics:
        """Creates the COCO metrics."""
        return DetectionMetrics(self.kinds)

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """Images and their objects; the model then returns its losses."""
        return images, labels

    def loss(self, output: dict[str, Tensor], labels: Any) -> Tensor:
        """The sum of the losses of proposals, classes, boxes and, if there are any, masks."""
        return torch.stack(list(output.values())).sum()

    def predict(self, model: nn.Module, images: Sequence[Tensor]) -> Iterator[Objects]:
        """Yields the objects of one image at a time, since masks have the size of the image."""
        for image in images:
            yield model([image])[0]

    @classmethod
    @torch.inference_mode()
    def evaluate(
        cls,
        subject: Subject,
        images: ImageDataset | ImageStream,
        data: DataConfig,
        config: EvalConfig,
        options: NoOptions,
    ) -> Evaluation:
        """Computes COCO metrics, also per class, and COCO result files.

        Boxes are compared, and masks if both the model and the data have them.
        """
        assert isinstance(images, DetectionDataset)
        images.transform = DetectionEvalTransform(subject.record.input_size[0])
        start = time.perf_counter()
        seen = ImagePass(subject, images, data, config)
        kinds = kinds_of(predicts_masks(subject.record) and images.has_masks)
        metrics = DetectionMetrics(kinds, by_class=True)
        results: dict[str, list[dict[str, Any]]] = {_KINDS[kind]: [] for kind in kinds}
        labels = seen.columns.argsort()
        for image, target in seen:
            with seen.autocast():
                (found,) = seen.model([image])
            found = {name: value.cpu() for name, value in found.items()}
            found["labels"] = labels[found["labels"]]
            metrics.update([found], [target])
            for kind, rows in coco_results(found, int(target["image_id"]), images).items():
                if kind in results:
                    results[kind] += rows
        figures = {name: float(value) for name, value in metrics.compute().items()}
        summaries = [_summary(kind, figures) for kind in kinds]
        columns = [f"{kind}_ap" for kind in kinds]
        return Evaluation(
            classes=images.classes,
            metrics=figures,
            images=seen.counted,
            skipped=seen.skipped,
            seconds=time.perf_counter() - start,
            lines=[f"{data.name}: {summaries[0]}", *summaries[1:]],
            per_class=Table(
                ("class", *columns),
                [
                    (images.classes[index], *(row[name] for name in columns))
                    for index, row in metrics.by_class().items()
                ],
            ),
            tables={BOX_AP_BY_OVERLAP: metrics.by_overlap(images.classes)},
            notes=[*seen.notes, *([] if results["bbox"] else [_NOTHING])],
            documents={f"results_{kind}": rows for kind, rows in results.items()},
        )

    @classmethod
    @torch.inference_mode()
    def predict_images(
        cls, subject: Subject, images: Iterable[Image.Image], options: DetectOptions
    ) -> Iterator[Prediction]:
        """Yields classes, scores, boxes and any masks, the highest score first, and a picture."""
        classes = subject.record.classes
        for image in images:
            found = find_objects(subject.model, subject.record, image, options.threshold)
            objects = described(found, classes)
            yield Prediction(
                objects, {"": to_pil_image(_drawn(image, found, objects, len(classes)))}
            )

    @classmethod
    @torch.inference_mode()
    def draw_beside_truth(
        cls, subject: Subject, images: DetectionDataset, index: int
    ) -> tuple[Tensor, Tensor]:
        """Draws an image with its annotated objects, and with those that are found."""
        images.transform = no_transform
        image, target = images[index]
        named = subject.record.classes
        columns = torch.tensor(match_classes(named, images.classes).columns)
        there = {name: target[name] for name in ("boxes", "labels", "masks") if name in target}
        there["labels"] = columns[there["labels"]]
        if "masks" in there:
            there["masks"] = there["masks"].bool()
        found = find_objects(subject.model, subject.record, image)
        annotated = [{"class": named[label]} for label in there["labels"].tolist()]
        return (
            _drawn(image, there, annotated, len(named)),
            _drawn(image, found, described(found, named), len(named)),
        )


def predicts_masks(record: ModelRecord) -> bool:
    """Whether the detector of a record predicts masks."""
    return bool(record.args.get("masks", True))


def described(found: Objects, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The objects as JSON types: ``class``, ``score``, ``box`` and any ``segmentation``."""
    names = [classes[label] for label in found["labels"].tolist()]
    columns = (names, found["scores"].tolist(), found["boxes"].tolist())
    objects: list[dict[str, Any]] = [
        {"class": name, "score": score, "box": box}
        for name, score, box in zip(*columns, strict=True)
    ]
    for one, mask in zip(objects, found.get("masks", ()), strict=False):
        one["segmentation"] = encode_mask(mask)
    return objects


class DetectionMetrics(Metrics):
    """COCO average precision and recall of boxes and masks, in percent, over all ranks.

    A metric without objects, such as AP large if there are no large objects, is NaN.

    Args:
        kinds: what is compared: ``box``, or ``box`` and ``mask``.
        by_class: whether :meth:`by_class` and :meth:`by_overlap` will be called.
    """

    def __init__(self, kinds: Sequence[str] = ("box", "mask"), by_class: bool = False) -> None:
        super().__init__()
        self.precision = _precision(kinds, by_class)
        self.prefixes = {kind: f"{_KINDS[kind]}_" if len(kinds) > 1 else "" for kind in kinds}
        """Of torchmetrics' names, by kind."""
        self.figures: dict[str, Tensor] | None = None
        """The cached result of torchmetrics for the images so far."""

    def update(self, output: Iterable[Objects], labels: Sequence[Objects]) -> None:
        """Adds the objects of images at their original size, one image at a time."""
        # zip would keep an image's objects until the next ones are computed
        for _ in map(self._count, output, labels):
            self.figures = None

    def _count(self, found: Objects, there: Objects) -> None:
        """Adds the objects of an image; torchmetrics keeps only the run lengths of their masks."""
        there = {**there, "area": there["area"].clamp(min=_NO_AREA)}
        if "mask" in self.prefixes:
            there["masks"] = there["masks"].bool()
        self.precision.update([found], [there])

    def compute(self) -> dict[str, Tensor]:
        """The metrics by name, e.g. ``box_ap50``."""
        given = self._compute()
        return {
            f"{kind}_{name}": _per_cent(given[f"{prefix}{key}"])
            for kind, prefix in self.prefixes.items()
            for name, (_, key) in _FIGURES.items()
        }

    def by_class(self) -> dict[int, dict[str, float]]:
        """The APs, e.g. ``box_ap``, of each class with objects, by class index."""
        given = self._compute()
        classes = given["classes"].reshape(-1).tolist()
        parts = {
            f"{kind}_ap": _per_cent(given[f"{prefix}map_per_class"]).reshape(-1).tolist()
            for kind, prefix in self.prefixes.items()
        }
        return {
            index: {name: values[place] for name, values in parts.items()}
            for place, index in enumerate(classes)
        }

    def by_overlap(self, names: Sequence[str]) -> Table:
        """The box AP of each class with objects, by the least IoU of a hit, in percent.

        Args:
            names: the names of all classes.
        """
        given = self._compute()
        # (IoUs, recalls, classes, areas, numbers of detections); all areas, most detections
        precision = given[f"{self.prefixes['box']}precision"][..., 0, -1]
        values = _per_cent(precision.mean(1)).T.tolist()
        classes = given["classes"].reshape(-1).tolist()
        columns = [f"{overlap:.2f}" for overlap in self.precision.iou_thresholds]
        rows = [(names[i], *row) for i, row in zip(classes, values, strict=True)]
        return Table(("class", *columns), rows)

    def reset(self) -> None:
        """Resets the metrics to their initial state."""
        self.precision.reset()
        self.figures = None

    def _compute(self) -> dict[str, Tensor]:
        """torchmetrics' result over the images of all ranks.

        The ranks may have different numbers of images, which torchmetrics' own synchronization
        does not support.
        """
        if self.figures is None:
            parts = gather(_on_cpu(self.precision.metric_state))
            whole = _precision(list(self.prefixes), self.precision.class_metrics)
            whole.update([], [])  # else it warns that it was never updated
            for name in parts[0]:
                setattr(whole, name, [item for part in parts for item in part[name]])
            self.figures = whole.compute()
        return self.figures


def _precision(kinds: Sequence[str], by_class: bool) -> MeanAveragePrecision:
    """torchmetrics' metric, without synchronization between processes."""
    metric = MeanAveragePrecision(
        iou_type=tuple(_KINDS[kind] for kind in kinds),
        class_metrics=by_class,
        extended_summary=by_class,
        backend="faster_coco_eval",
        sync_on_compute=False,
    )
    metric.warn_on_many_detections = False
    return metric


def _on_cpu(state: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists of a metric's state, moved to the CPU, since other ranks have other devices."""
    return {
        name: [item.cpu() if isinstance(item, Tensor) else item for item in items]
        for name, items in state.items()
    }


def encode_mask(mask: Tensor) -> dict[str, Any]:
    """Encodes a mask (H, W) as COCO run lengths, as JSON types."""
    from faster_coco_eval.core import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def _per_cent(value: Tensor) -> Tensor:
    """Converts to percent; COCO's -1, a metric without objects, becomes NaN."""
    return torch.where(value < 0, math.nan, 100 * value)


def _summary(kind: str, figures: Mapping[str, float]) -> str:
    by_area = ", ".join(f"{area} {_text(figures[f'{kind}_ap_{area}'])}" for area in _AREAS)
    whole = ", ".join(
        f"{_FIGURES[name][0]} {_text(figures[f'{kind}_{name}'])}" for name in ("ap50", "ap75", "ar")
    )
    return f"{kind} AP {_text(figures[f'{kind}_ap'])}, {whole}; {by_area}"


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def coco_results(
    objects: Objects, image_id: int, images: DetectionDataset
) -> dict[str, list[dict[str, Any]]]:
    """The detected objects of an image as entries of COCO result files, ``bbox`` and any ``segm``.

    There are two files because COCO's evaluator takes the area of an entry from its box, if it has
    one.

    Args:
        objects: boxes, labels, scores and any masks in pixels of the original image, on the CPU.
        image_id: id of the image in the annotation file.
        images: dataset with the category ids.
    """
    found = [
        {"image_id": image_id, "category_id": images.category_id(label), "score": score}
        for label, score in zip(objects["labels"].tolist(), objects["scores"].tolist(), strict=True)
    ]
    boxes = box_convert(objects["boxes"], "xyxy", "xywh").tolist()
    results = {"bbox": [{**one, "bbox": box} for one, box in zip(found, boxes, strict=True)]}
    if "masks" in objects:
        masks = [encode_mask(mask) for mask in objects["masks"]]
        pairs = zip(found, masks, strict=True)
        results["segm"] = [{**one, "segmentation": mask} for one, mask in pairs]
    return results


@torch.inference_mode()
def find_objects(
    model: nn.Module, record: ModelRecord, image: Image.Image, threshold: float = 0.5
) -> Objects:
    """Detects objects in an image, the highest score first.

    Args:
        model: detector in evaluation mode.
        record: record of the model, with mean and standard deviation of its images.
        image: the image; it is converted to the channels that the model takes.
        threshold: lowest score of the returned objects.

    Returns:
        ``boxes`` (N, 4) as x1, y1, x2, y2 and, if the model predicts them, ``masks`` (N, H, W)
        bool, both in pixels of the original image, ``labels`` (N,) and ``scores`` (N,).
    """
    pixels = pil_to_tensor(in_channels(image, record.input_size[0]))
    prepared = DeviceTransform(record.mean, record.std)(pixels[None].to(device_of_weights(model)))
    with _nothing_below(model, threshold):
        found = {name: value.cpu() for name, value in model(prepared)[0].items()}
    kept = found["scores"] >= threshold
    return {name: value[kept] for name, value in found.items()}


@contextmanager
def _nothing_below(detector: Any, threshold: float) -> Iterator[None]:
    """Makes a detector drop objects below a score before it resizes their masks to the image.

    The other objects do not change, since an object never suppresses one with a higher score.
    """
    own = detector.score_threshold
    # torchvision keeps scores above its threshold; ours is inclusive
    detector.score_threshold = max(own, float(np.nextafter(np.float32(threshold), np.float32(-1))))
    try:
        yield
    finally:
        detector.score_threshold = own


def _drawn(
    image: Image.Image, found: Objects, objects: Sequence[Mapping[str, Any]], classes: int
) -> Tensor:
    """Draws the objects on their image."""
    pixels = pil_to_tensor(image.convert("RGB"))
    captions = [
        f"{one['class']} {one['score']:.2f}" if "score" in one else one["class"] for one in objects
    ]
    return draw_objects(pixels, found, captions, classes, caption_factor(pixels))
