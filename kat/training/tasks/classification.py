"""Image classification: cross entropy, mixup, top-1 and top-5 accuracy."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from kat.data import (
    AugmentConfig,
    DataConfig,
    ImageDataset,
    ImageStream,
    eval_transform,
    train_transform,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.settings import Count
from kat.text import dimensions
from kat.training.callbacks.nonfinite import not_finite
from kat.training.config import TrainConfig
from kat.training.evaluation.class_match import match_classes
from kat.training.evaluation.class_predictions import predict_classes
from kat.training.evaluation.confusion import (
    ClassAccuracy,
    Confused,
    calibration,
    calibration_rows,
    class_accuracies,
    confusion_matrix,
    most_confused,
)
from kat.training.evaluation.diagnosis import Classified, explain, recorded_top1, suspicion
from kat.training.evaluation.evaluation import (
    EvalConfig,
    Evaluation,
    Subject,
    Table,
    device_of_weights,
)
from kat.training.evaluation.prediction import ClassPredictions, Prediction
from kat.training.evaluation.real_labels import (
    check_real_labels,
    read_real_labels,
    real_accuracy,
)
from kat.training.tasks.task import Metric, Metrics, Task, Transforms

_PAIRS = 20
"""The number of most confused pairs of classes in an evaluation."""
_SHOWN = 3
"""The number of worst classes, best classes and confused pairs that are printed."""


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
    """How a classifier predicts.

    Args:
        batch_size: images at a time.
        top: how many of the most likely classes.
    """

    batch_size: Count = 32
    top: Count = 5


class Classification(Task):
    """Classification of whole images; the model maps (B, C, H, W) to logits (B, classes)."""

    name: ClassVar[str] = "classification"
    metrics: tuple[Metric, ...] = (Metric("top1", "top-1"), Metric("top5", "top-5"))
    example_models: ClassVar[str] = "kat_tiny_patch16_224, kat_micro"
    unused_settings: ClassVar[tuple[str, ...]] = (
        "detection",
        "segmentation",
        "data.bad_annotations",
        "data.boxes_only",
    )
    eval_metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1", "top-1 %"),
        Metric("top5", "top-5 %"),
        Metric("loss", "loss", ".4f"),
        Metric("ece", "ECE", ".4f"),
        Metric("real_top1", "ReaL top-1 %", in_table=False),
        Metric("real_top5", "ReaL top-5 %", in_table=False),
    )
    EvalOptions: ClassVar[type] = ClassificationOptions
    PredictOptions: ClassVar[type] = ClassifyOptions
    entries: ClassVar[str] = "top"
    entry_figure: ClassVar[str] = "probability"
    on_grid: ClassVar[bool] = False
    draws: ClassVar[bool] = False

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        super().__init__(config, record)
        self.random_erasing = config.augment.random_erasing
        self.mixup = _mixup(config.augment, len(record.classes))

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """timm's transforms, without normalization, which runs on the device."""
        return train_transform(record, config.augment), eval_transform(record, normalize=False)

    def make_metrics(self) -> Metrics:
        """Creates the metrics: loss, top-1 and top-5."""
        return ClassificationMetrics(len(self.record.classes))

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Applies mixup and cutmix, if they are enabled; labels then become soft."""
        if self.mixup is None:
            return images, labels
        even = len(labels) - len(labels) % 2  # timm's Mixup needs pairs: a last image stays alone
        parts = [self.mixup(images[:even], labels[:even])] if even else []
        if even < len(labels):
            smoothing, classes = self.mixup.label_smoothing, self.mixup.num_classes
            target = mixup_target(labels[even:], classes, smoothing=smoothing)
            parts.append((images[even:], target))
        mixed, soft = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return mixed, soft

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy; mixup applies label smoothing itself."""
        smoothing = self.config.augment.label_smoothing if self.mixup is None else 0.0
        return functional.cross_entropy(output, labels, label_smoothing=smoothing)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = model(images)
        return logits

    @classmethod
    def evaluate(
        cls,
        subject: Subject,
        images: ImageDataset | ImageStream,
        data: DataConfig,
        config: EvalConfig,
        options: ClassificationOptions,
    ) -> Evaluation:
        """Evaluates top-1, top-5, loss, calibration and accuracy per class, with a diagnosis."""
        real_labels = read_real_labels(options.real_labels) if options.real_labels else None
        if real_labels is not None:
            check_real_labels(images, real_labels)
        stored, size = subject.record, config.image_size
        given = {name: getattr(options, name) for name in _PREPROCESSING}
        record, overridden = with_preprocessing(
            stored, input_size=size and (stored.input_size[0], size, size), **given
        )
        _check_size(subject.model, size)
        match = match_classes(record.classes, images.classes)
        if config.limit is not None and isinstance(images, ImageDataset):
            images = images.evenly_spaced(config.limit)
        images.transform = eval_transform(record, normalize=False)
        start = time.perf_counter()
        predictions, unreadable = predict_classes(
            subject._replace(record=record), images, match.columns, data, config
        )
        seconds = time.perf_counter() - start
        classes, real = images.classes, {}
        if real_labels is not None:
            real = real_accuracy(predictions, classes, real_labels)
        unreadable = {
            name: f"it cannot be read as an image: {why}" for name, why in unreadable.items()
        }
        skipped = images.ignored | unreadable
        evaluation = from_predictions(predictions, classes, data.name, seconds, skipped, real)
        evaluation.notes = [*match.notes, *map(_difference, overridden.items())]
        recorded = recorded_top1(subject.source, data.name)
        evaluation.warning = suspicion(predictions, len(classes), recorded)
        if evaluation.warning:
            found = Classified(subject, overridden, classes, match, predictions)
            evaluation.findings = explain(found)
        return evaluation

    @classmethod
    @torch.inference_mode()
    def predict_images(
        cls, subject: Subject, images: Iterable[Image.Image], options: ClassifyOptions
    ) -> Iterator[Prediction]:
        """The most likely classes, with their probabilities."""
        device = device_of_weights(subject.model)
        transform, remaining = eval_transform(subject.record), iter(images)
        while batch := [transform(image) for image in islice(remaining, options.batch_size)]:
            forward = partial(subject.model, torch.stack(batch).to(device))
            logits = forward()
            if not logits.isfinite().all():
                raise not_finite(subject.source, subject.model, forward)
            yield from _likeliest(logits, subject.record.classes, options.top)


class ClassificationMetrics(Metrics):
    """Mean loss, and top-1 and top-5 in percent, over the images of all ranks.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")

    def update(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Adds the logits of a batch; returns its mean cross entropy."""
        loss = functional.cross_entropy(predictions.float(), labels)
        self.loss.update(loss.expand(len(labels)))
        self.top1.update(predictions, labels)
        self.top5.update(predictions, labels)
        return loss

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``top1`` and ``top5``; a collective."""
        top1, top5 = self.top1.compute(), self.top5.compute()
        return {"loss": self.loss.compute(), "top1": 100 * top1, "top5": 100 * top5}

    def reset(self) -> None:
        """Resets the metrics to their initial state."""
        for metric in (self.loss, self.top1, self.top5):
            metric.reset()


def _check_size(model: nn.Module, side: int | None) -> None:
    """Checks that a model of timm's takes images of this side.

    Raises:
        InputError: it takes another size alone.
    """
    embed = getattr(model, "patch_embed", None)
    taken = getattr(embed, "img_size", None) if getattr(embed, "strict_img_size", False) else None
    if side is not None and taken is not None and tuple(taken) != (side, side):
        raise InputError(
            f"image_size={side}: the model takes images of {dimensions(taken)} pixels alone;"
            f" kat.deploy.open_model(path, {side}) opens it for others"
        )


def _mixup(augment: AugmentConfig, classes: int) -> Mixup | None:
    if augment.mixup == 0 and augment.cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mixup_prob,
        switch_prob=augment.mixup_switch_prob,
        label_smoothing=augment.label_smoothing,
        num_classes=classes,
    )


_PREPROCESSING = ("crop_pct", "interpolation", "mean", "std")


def with_preprocessing(
    record: ModelRecord, **given: Any
) -> tuple[ModelRecord, dict[str, tuple[Any, Any]]]:
    """Replaces preprocessing settings in a record.

    Args:
        record: record of the model.
        given: input_size, mean, std, interpolation, crop_pct; None keeps the stored value.

    Returns:
        The new record, and the settings that differ: name to (stored, given).

    Raises:
        InputError: a value is invalid.
    """
    given = {name: _as_tuple(value) for name, value in given.items() if value is not None}
    differing = {
        name: (getattr(record, name), value)
        for name, value in given.items()
        if _as_tuple(getattr(record, name)) != value
    }
    return dataclasses.replace(record, **given), differing


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _difference(overridden: tuple[str, tuple[Any, Any]]) -> str:
    name, (stored, given) = overridden
    return f"note: {name} is {given}, but the checkpoint's record has {stored}"


def from_predictions(
    predictions: ClassPredictions,
    classes: list[str],
    data: str,
    seconds: float,
    skipped: dict[str, str] | None = None,
    real: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluates the predictions of a classifier.

    Args:
        predictions: predictions for all images.
        classes: class names of the data.
        data: name of the dataset.
        seconds: time that the predictions took.
        skipped: skipped files, with the reason for each.
        real: accuracies by ImageNet's reassessed labels.
    """
    hits, confidence = predictions.hits, predictions.probabilities[:, 0]
    matrix = confusion_matrix(predictions.labels, predictions.top[:, 0], len(classes))
    bins = calibration(confidence, hits[:, 0])
    by_class = class_accuracies(matrix, classes)
    pairs = most_confused(matrix, classes, _PAIRS)
    evaluation = Evaluation(
        classes=classes,
        metrics={
            "top1": 100 * float(hits[:, 0].mean()),
            "top5": 100 * float(hits.any(axis=1).mean()),
            "loss": float(predictions.losses.mean(dtype=np.float64)),
            "ece": bins.ece,
            "mean_confidence": float(confidence.mean(dtype=np.float64)),
            **(real or {}),
        },
        images=len(predictions.labels),
        skipped=skipped or {},
        seconds=seconds,
        lines=[],
        per_class=Table(_CLASS_COLUMNS, [_class_row(row) for row in by_class]),
        details={
            "calibration": calibration_rows(bins),
            "most_confused": [dataclasses.asdict(pair) for pair in pairs],
        },
        tables={"predictions": _prediction_table(predictions, classes)},
        confusion=matrix,
        calibration=bins,
        predictions=predictions,
    )
    evaluation.lines = _lines(evaluation, data, by_class, pairs)
    return evaluation


def _lines(
    found: Evaluation, data: str, by_class: Sequence[ClassAccuracy], pairs: Sequence[Confused]
) -> list[str]:
    metrics = found.metrics
    lines = [
        f"{data}: top-1 {metrics['top1']:.2f} %, top-5 {metrics['top5']:.2f} %, loss"
        f" {metrics['loss']:.4f} on {found.images} images ({len(found.skipped)} files skipped)",
        f"{found.images_per_second:.0f} images/s; ECE {metrics['ece']:.4f}, mean confidence"
        f" {100 * metrics['mean_confidence']:.2f} %",
    ]
    if not math.isnan(metrics.get("real_top1", math.nan)):
        lines.append(
            f"real labels: top-1 {metrics['real_top1']:.2f} %, top-5 {metrics['real_top5']:.2f} %"
            f" on {metrics['real_images']:.0f} images"
        )
    seen = [row for row in by_class if row.accuracy is not None]
    ranked = [f"{row.name} {row.accuracy:.1f} %" for row in sorted(seen, key=_accuracy)]
    for which, listed in (("worst", ranked[:_SHOWN]), ("best", ranked[_SHOWN:][::-1][:_SHOWN])):
        if listed:
            lines.append(f"{which} classes: {', '.join(listed)}")
    confused = [
        f"{pair.true} taken for {pair.predicted} ({pair.count} of {pair.images})"
        for pair in pairs[:_SHOWN]
    ]
    return lines + ([f"most confused: {', '.join(confused)}"] if confused else [])


def _accuracy(row: ClassAccuracy) -> float:
    return row.correct / row.images


_CLASS_COLUMNS = (
    "class", "images", "correct", "accuracy", "predicted", "precision", "mistaken_for",
)  # fmt: skip


def _class_row(row: ClassAccuracy) -> list[Any]:
    return [
        row.name, row.images, row.correct, row.accuracy, row.predicted, row.precision,
        row.mistaken_for,
    ]  # fmt: skip


def _prediction_table(predictions: ClassPredictions, classes: Sequence[str]) -> Table:
    """A table of all images with their true and most likely classes."""
    ranks = range(1, predictions.top.shape[1] + 1)
    columns = ["file", "label", *(f"{kind}{k}" for k in ranks for kind in ("class", "p"))]
    rows = []
    for name, label, top, probabilities in zip(
        predictions.names,
        predictions.labels.tolist(),
        predictions.top.tolist(),
        predictions.probabilities.tolist(),
        strict=True,
    ):
        pairs = [(classes[i], f"{p:.6g}") for i, p in zip(top, probabilities, strict=True)]
        rows.append([name, classes[label], *itertools.chain.from_iterable(pairs)])
    return Table(columns, rows)


def _likeliest(logits: Tensor, classes: Sequence[str], top: int) -> Iterator[Prediction]:
    best = logits.softmax(-1).topk(min(top, len(classes)))
    for probabilities, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        yield Prediction(
            [
                {"class": classes[index], "probability": probability}
                for probability, index in zip(probabilities, indices, strict=True)
            ]
        )
