"""Predictions of a model for validation images: which images, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.analysis.inspect.activations import spread
from kat.data import (
    Batch,
    DataConfig,
    DeviceTransform,
    ImageDataset,
    UnreadableImage,
    make_loader,
    open_split,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training import TrainConfig
from kat.training.evaluation.run_data import data_of_run
from kat.training.tasks.classes import TASK_CLASSES
from kat.training.tasks.classification.metrics import (
    ClassScores,
    class_scores,
    confusion_matrix,
)
from kat.training.tasks.evaluation import EvalConfig, EvalJob, Evaluation, Subject
from kat.training.tasks.match import check_task, match_classes
from kat.training.tasks.registry import task_options

_BATCH = 64
Pair = tuple[Tensor, Tensor]
"""A picture of an image with its ground truth, and one with what is predicted: (3, H, W) uint8."""


@dataclass(frozen=True)
class ValidationImages:
    """Some images of a validation split, transformed for a model but not normalized.

    Args:
        images: evenly spread over the split.
        data: how they are loaded.
        count: the number of images, at most.
    """

    images: ImageDataset
    data: DataConfig
    count: int

    def batches(self) -> Iterator[Batch]:
        """Load the images that can be read.

        Raises:
            InputError: none can.
        """
        left = self.count
        for batch in make_loader(self.images, self.data, training=False):
            if len(batch.labels) > 0:
                yield batch._replace(images=batch.images[:left], labels=batch.labels[:left])
                left -= len(batch.labels)
            if left <= 0:
                return


def images_of_run(
    checkpoint: Path, model: nn.Module, record: ModelRecord, count: int, name: str | None = None
) -> ValidationImages:
    """Open the validation split of a run, or of another dataset for the same task.

    Args:
        checkpoint: a run directory, or a file in one.
        model, record: which is to see the images.
        count: the number of images.
        name: the name of a dataset, in place of the run's own.

    Raises:
        InputError: there is neither a run nor a name, or the dataset is for other models.
    """
    named = {} if name is None else {"name": name}
    settings = data_of_run(checkpoint, named) | named
    if "name" not in settings:
        raise InputError(f"{checkpoint} belongs to no run: name a dataset to take images of")
    size = {"batch_size": min(_BATCH, count), "num_workers": 0}
    data = DataConfig(**{**settings, **size})
    images = open_split(data, "val")
    check_task(model, images, (str(checkpoint), data.name))
    images = images.evenly_spaced(count)
    _, images.transform = TASK_CLASSES[images.task].transforms(record, TrainConfig())
    return ValidationImages(images, data, count)


def normalized(batches: Iterable[Batch], record: ModelRecord) -> Iterator[Tensor]:
    """Yield batches as inputs (B, C, H, W) of the model; images of several sizes one by one."""
    prepare = DeviceTransform(record.mean, record.std)
    for batch in batches:
        if isinstance(batch.images, Tensor):
            yield prepare(batch.images)
        else:
            yield from (prepare(image[None]) for image in batch.images)


@dataclass(frozen=True)
class ClassFindings:
    """The predictions of a classifier for N images of K classes.

    Args:
        classes: the K class names of the data.
        confusion: (K, K) counts, true classes down, predicted ones across.
        by_class: recall, precision and F1 of each class.
        shown: (M, C, H, W) uint8: images that are predicted wrongly, the one of the highest loss
            first, then some that are predicted correctly.
        titles: M titles: the true class, the predicted one and its probability.
    """

    classes: list[str]
    confusion: np.ndarray
    by_class: list[ClassScores]
    shown: Tensor
    titles: list[str]

    @property
    def images(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())


@torch.inference_mode()
def class_findings(
    model: nn.Module,
    record: ModelRecord,
    batches: Sequence[Batch],
    classes: list[str],
    most: int = 6,
) -> ClassFindings:
    """Run a classifier over images.

    Args:
        model: the classifier.
        record: the record of the model.
        batches: images that are not normalized, with the indices of their classes.
        classes: the class names of the data.
        most: the largest number of wrong, and of right, predictions that are kept.

    Raises:
        InputError: the data has other classes than the model.
    """
    columns = match_classes(record.classes, classes).columns
    logits = torch.cat([model(images)[:, columns] for images in normalized(batches, record)])
    labels = torch.cat([batch.labels for batch in batches])
    predicted = logits.argmax(-1)
    matrix = confusion_matrix(labels.numpy(), predicted.numpy(), len(classes))
    losses = functional.cross_entropy(logits, labels, reduction="none")
    hits = predicted == labels
    losses[hits] = -1.0
    right = hits.nonzero()[:, 0]
    chosen = [losses.topk(min(most, int((~hits).sum()))).indices, right[spread(len(right), most)]]
    order = torch.cat(chosen).tolist()
    confidence = logits.softmax(-1).amax(-1)
    titles = []
    for i in order:
        title = f"{classes[predicted[i]]} ({100 * confidence[i]:.0f} %)"
        wrong = f"wrong: {title}\ntrue: {classes[labels[i]]}"
        titles.append(f"right: {title}" if hits[i] else wrong)
    pictures = torch.cat([batch.images for batch in batches])[order]
    return ClassFindings(classes, matrix, class_scores(matrix, classes), pictures, titles)


@dataclass(frozen=True)
class DenseFindings:
    """The predictions for some validation images.

    Args:
        evaluation: the metrics over all of them.
        pairs: pictures of the first ones.
    """

    evaluation: Evaluation
    pairs: list[Pair]


def dense_findings(subject: Subject, seen: ValidationImages, drawn: int = 4) -> DenseFindings:
    """Evaluate a model on images, and draw some of them.

    Args:
        subject: the model, on the CPU.
        seen: the images.
        drawn: the largest number of images that are drawn.

    Raises:
        InputError: the data has other classes than the model, or no image can be read.
    """
    images = seen.images
    config = EvalConfig(device="cpu", progress=False)
    options = task_options(images.task, "evaluate", {})
    found = TASK_CLASSES[images.task].evaluate(EvalJob(subject, images, seen.data, config, options))
    return DenseFindings(found, list(_pairs(subject, images.evenly_spaced(drawn))))


def _pairs(subject: Subject, images: ImageDataset) -> Iterator[Pair]:
    task = TASK_CLASSES[images.task]
    for index in range(len(images)):
        try:
            yield task.draw_beside_truth(subject, images, index)
        except UnreadableImage:
            continue
