"""Image classification: cross entropy, mixup, top-1 and top-5 accuracy."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from PIL import Image
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor, nn
from torch.nn import functional

from kat.data import eval_transform, train_transform
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.nonfinite import finite_output
from kat.training.tasks.classification import report
from kat.training.tasks.classification.declared import (
    DECLARED,
    ClassifyOptions,
)
from kat.training.tasks.classification.metrics import TOP, ClassificationMetrics, predict_classes
from kat.training.tasks.evaluation import EvalJob, Evaluation, Prediction, Subject
from kat.training.tasks.match import match_classes
from kat.training.tasks.task import Metrics, Task, Transforms

_PREPROCESSING = ("crop_pct", "interpolation", "mean", "std")


class Classification(Task):
    """Classification of whole images; the model maps (B, C, H, W) to logits (B, classes)."""

    declared = DECLARED

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        super().__init__(config, record)
        if len(record.classes) <= TOP:
            self.metrics = self.metrics[:1]
        augment, self.mixup = config.augment, None
        weights: Any = config.loss.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights)
        if augment.mixup > 0 or augment.cutmix > 0:
            self.mixup = Mixup(
                mixup_alpha=augment.mixup,
                cutmix_alpha=augment.cutmix,
                prob=augment.mixup_prob,
                switch_prob=augment.mixup_switch_prob,
                label_smoothing=augment.label_smoothing,
                num_classes=len(record.classes),
            )

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Return timm's transforms, without normalization, which runs on the device."""
        return train_transform(record, config.augment), eval_transform(record, normalize=False)

    def make_metrics(self) -> Metrics:
        """Create the metrics: loss, top-1 and top-5."""
        return ClassificationMetrics(len(self.record.classes))

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Apply mixup and cutmix, if they are enabled; labels then become soft."""
        if self.mixup is None:
            return images, labels
        even = len(labels) - len(labels) % 2  # timm's Mixup needs pairs: a last image stays alone
        smoothing, classes = self.mixup.label_smoothing, self.mixup.num_classes
        soft = mixup_target(labels, classes, smoothing=smoothing)
        if even:  # timm mixes images in place
            _, soft[:even] = self.mixup(images[:even], labels[:even])
        return images, soft

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy; mixup applies label smoothing itself.

        With class weights w it is a weighted mean over the B images of this process. Where labels
        are indices y it is PyTorch's: the mean of w_y (-log p_y) over the mean of w_y; smoothing
        by e gives (1 - e) of that and e / K sum_c w_c (-log p_c), also over the mean of w_y. Where
        mixup or cutmix gives targets t, it is sum_bc w_c t_bc (-log p_bc) / sum_bc w_c t_bc.
        """
        smoothing = self.config.augment.label_smoothing if self.mixup is None else 0.0
        if self.class_weights is None:
            return functional.cross_entropy(output, labels, label_smoothing=smoothing)
        exact = output.to(torch.promote_types(output.dtype, torch.float32))
        weights = self.class_weights.to(exact)
        loss = functional.cross_entropy(exact, labels, weights, label_smoothing=smoothing)
        if labels.ndim == 1:
            return loss
        return loss * len(labels) / (labels * weights).sum()  # PyTorch divides by B

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return the logits (B, classes)."""
        return model(images)

    @classmethod
    def evaluate(cls, job: EvalJob) -> Evaluation:
        """Evaluate top-1, top-5, loss, calibration, and recall, precision and F1 of classes."""
        subject, images, data, config, options = job
        labels = report.read_real_labels(options.real_labels) if options.real_labels else {}
        indices: list[int] = []
        if labels:
            names = map(images.name, range(len(images)))
            indices = report.check_imagenet(images.classes, names, labels)
        size = config.image_size
        given = {name: getattr(options, name) for name in _PREPROCESSING}
        if size is not None:
            given["input_size"] = (subject.record.input_size[0], size, size)
        record, notes = with_preprocessing(subject.record, given)
        match = match_classes(record.classes, images.classes)
        if config.limit is not None:
            images = images.evenly_spaced(config.limit)
        images.transform = eval_transform(record, normalize=False)
        start = time.perf_counter()
        job = job._replace(subject=subject._replace(record=record), images=images)
        predictions, unreadable = predict_classes(job, match.columns)
        seconds = time.perf_counter() - start
        real = report.real_accuracy(predictions, indices, labels) if labels else {}
        skipped = images.ignored | {
            name: f"it cannot be read as an image: {why}" for name, why in unreadable.items()
        }
        found = report.from_predictions(
            predictions, images.classes, data.name, seconds, skipped, real
        )
        found.notes = [*match.notes, *notes]
        found.warning = report.suspicion(predictions, len(images.classes))
        return found

    @classmethod
    @torch.inference_mode()
    def predict_images(
        cls,
        subject: Subject,
        images: Iterable[Image.Image],
        options: ClassifyOptions,
        draw: bool = False,
    ) -> Iterator[Prediction]:
        """Yield the most likely classes of each image, with their probabilities."""
        transform, remaining = eval_transform(subject.record), iter(images)
        while batch := [transform(image) for image in islice(remaining, options.batch_size)]:
            forward = partial(subject.model, torch.stack(batch).to(subject.device))
            logits = finite_output(subject.source, subject.model, forward)
            classes = subject.record.classes
            best = logits.softmax(-1).topk(min(options.top, len(classes)))
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                pairs = zip(indices, values, strict=True)
                yield Prediction([{"class": classes[i], "probability": p} for i, p in pairs])


def with_preprocessing(
    record: ModelRecord, given: Mapping[str, Any]
) -> tuple[ModelRecord, list[str]]:
    """Replace preprocessing settings in a record.

    Args:
        record: record of the model.
        given: input_size, mean, std, interpolation, crop_pct; None keeps the stored value.

    Returns:
        The new record, and a note for each setting that differs.
    """
    changed: dict[str, Any] = {}
    notes = []
    for name, value in given.items():
        if value is None:
            continue
        changed[name] = tuple(value) if isinstance(value, list) else value
        stored = getattr(record, name)
        if changed[name] != stored:
            notes.append(
                f"note: {name} is {changed[name]}, but the checkpoint's record has {stored}"
            )
    return dataclasses.replace(record, **changed), notes
