"""Detection and instance segmentation: R-CNN losses, predictions, COCO metrics and their lines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kat.data.decoding import in_channels
from kat.data.dense import DetectionDataset, DetectionEvalTransform, DetectionTrainTransform
from kat.data.dense.dataset import no_transform
from kat.data.dense.drawing import caption_factor, draw_objects
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.nonfinite import check_weights
from kat.training.tasks.detection.declared import DECLARED, DetectOptions
from kat.training.tasks.detection.metrics import (
    KINDS,
    DetectionMetrics,
    Objects,
    coco_results,
    encode_mask,
    kinds_of,
)
from kat.training.tasks.evaluation import EvalJob, Evaluation, ImagePass, Prediction, Subject, Table
from kat.training.tasks.match import match_classes
from kat.training.tasks.task import Task, Transforms

_NOTHING = "note: no object was found; pycocotools cannot read files of results without one"


class Detection(Task):
    """Objects with boxes and perhaps masks; the model is a :class:`kat.models.dense.Detector`."""

    declared = DECLARED

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        super().__init__(config, record)
        self.kinds = kinds_of(predicts_masks(record))
        self.metrics = tuple(m for m in self.metrics if m.name.startswith(self.kinds))

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Resize, flip and crop images with their boxes and masks."""
        channels, size, _ = record.input_size
        training = DetectionTrainTransform(size, config.detection, record.mean)
        return training, DetectionEvalTransform(channels)

    def make_metrics(self) -> DetectionMetrics:
        """Create the COCO metrics."""
        return DetectionMetrics(self.kinds)

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """Return images and their objects, with which the model returns its losses."""
        return images, labels

    def loss(self, output: dict[str, Tensor], labels: Any) -> Tensor:
        """Return the sum of the losses of proposals, classes, boxes and any masks."""
        return torch.stack(list(output.values())).sum()

    def predict(self, model: nn.Module, images: Sequence[Tensor]) -> Iterator[Objects]:
        """Yield the objects of one image at a time, since masks have the size of the image."""
        for image in images:
            yield model([image])[0]

    @classmethod
    @torch.inference_mode()
    def evaluate(cls, job: EvalJob) -> Evaluation:
        """Compute COCO metrics, also per class, and COCO result files.

        Boxes are compared, and masks if both the model and the data have them.
        """
        images, record = job.images, job.subject.record
        images.transform = DetectionEvalTransform(record.input_size[0])
        seen = ImagePass(job)
        kinds = kinds_of(predicts_masks(record) and images.has_masks)
        metrics = DetectionMetrics(kinds, by_class=True)
        results: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        labels = seen.columns.argsort()
        for image, target in seen:
            with seen.precision.autocast():
                (found,) = seen.model([image])
            found = {name: value.cpu() for name, value in found.items()}
            found["labels"] = labels[found["labels"]]
            metrics.update([found], [target])
            for kind, rows in coco_results(found, int(target["image_id"]), images).items():
                results[kind] += rows
        figures = {name: float(value) for name, value in metrics.compute().items()}
        by_class = [(images.classes[i], *row.values()) for i, row in metrics.by_class().items()]
        if not results["bbox"]:
            seen.notes.append(_NOTHING)
        return seen.evaluation(
            [_summary(kind, figures) for kind in kinds],
            metrics=figures,
            per_class=Table(["class", *(f"{kind}_ap" for kind in kinds)], by_class),
            notes=seen.notes,
            documents={f"results_{KINDS[kind]}": results[KINDS[kind]] for kind in kinds},
        )

    @classmethod
    @torch.inference_mode()
    def predict_images(
        cls,
        subject: Subject,
        images: Iterable[Image.Image],
        options: DetectOptions,
        draw: bool = False,
    ) -> Iterator[Prediction]:
        """Yield classes, scores, boxes and any masks, the highest score first."""
        classes = subject.record.classes
        for image in images:
            found = find_objects(subject, image, options.threshold)
            prediction = Prediction(described(found, classes))
            if draw:
                prediction.pictures[""] = to_pil_image(_drawn(image, found, classes))
            yield prediction

    @classmethod
    @torch.inference_mode()
    def draw_beside_truth(
        cls, subject: Subject, images: DetectionDataset, index: int
    ) -> tuple[Tensor, Tensor]:
        """Draw an image with its annotated objects, and with the detected ones."""
        images.transform = no_transform
        image, target = images[index]
        named = subject.record.classes
        columns = torch.tensor(match_classes(named, images.classes).columns)
        there = {**target, "labels": columns[target["labels"]]}
        if "masks" in there:
            there["masks"] = there["masks"].bool()
        found = find_objects(subject, image)
        return _drawn(image, there, named), _drawn(image, found, named)


def predicts_masks(record: ModelRecord) -> bool:
    """Return True if the detector of a record predicts masks."""
    return bool(record.args.get("masks", True))


def described(found: Objects, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the objects as JSON types: ``class``, ``score``, ``box`` and any ``segmentation``."""
    objects = []
    for i, label in enumerate(found["labels"].tolist()):
        one = {
            "class": classes[label],
            "score": found["scores"][i].item(),
            "box": found["boxes"][i].tolist(),
        }
        if "masks" in found:
            one["segmentation"] = encode_mask(found["masks"][i])
        objects.append(one)
    return objects


def _summary(kind: str, figures: Mapping[str, float]) -> str:
    text = {name.removeprefix(f"{kind}_"): _text(value) for name, value in figures.items()}
    return (
        f"{kind} AP {text['ap']}, AP50 {text['ap50']}, AP75 {text['ap75']}, AR {text['ar']};"
        f" small {text['ap_small']}, medium {text['ap_medium']}, large {text['ap_large']}"
    )


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


@torch.inference_mode()
def find_objects(subject: Subject, image: Image.Image, threshold: float = 0.5) -> Objects:
    """Detect objects in an image, the highest score first.

    Args:
        subject: detector in evaluation mode.
        image: the image; it is converted to the channels that the model takes.
        threshold: lowest score of the returned objects.

    Raises:
        InputError: weights are not finite, for which a detector finds nothing.

    Returns:
        ``boxes`` (N, 4) as x1, y1, x2, y2 and, if the model predicts them, ``masks`` (N, H, W)
        bool, both in pixels of the original image, ``labels`` (N,) and ``scores`` (N,).
    """
    model: Any = subject.model
    prepared = subject.prepared(pil_to_tensor(in_channels(image, subject.record.input_size[0])))
    check_weights(subject.source, model)
    own = model.score_threshold
    # The detector drops objects below its threshold before it resizes masks to the image. Those
    # that are left do not change, since an object never suppresses one with a higher score.
    model.score_threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))
    try:
        found = {name: value.cpu() for name, value in model(prepared)[0].items()}
    finally:
        model.score_threshold = own
    kept = found["scores"] >= threshold
    return {name: value[kept] for name, value in found.items()}


def _drawn(image: Image.Image, found: Objects, classes: Sequence[str]) -> Tensor:
    """Draw the objects on their image."""
    pixels = pil_to_tensor(image.convert("RGB"))
    captions = [classes[label] for label in found["labels"].tolist()]
    for i, score in enumerate(found.get("scores", ())):
        captions[i] += f" {score:.2f}"
    return draw_objects(pixels, found, captions, caption_factor(pixels))
