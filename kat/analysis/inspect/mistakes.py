"""How a classifier predicts some images: confusion, accuracy by class, the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.analysis.inspect.images import normalized
from kat.data import Batch
from kat.models import ModelRecord
from kat.training.evaluation.class_match import match_classes
from kat.training.evaluation.confusion import ClassAccuracy, class_accuracies, confusion_matrix


@dataclass(frozen=True)
class ClassFindings:
    """The predictions of a classifier for N images of K classes.

    Args:
        classes: the K class names of the data.
        confusion: (K, K) counts, true classes down, predicted ones across.
        by_class: the accuracy of each class.
        mistakes: (M, C, H, W) uint8, images that are predicted wrongly, that of the highest loss
            first.
        titles: M titles: the true class, the predicted one and its probability.
    """

    classes: list[str]
    confusion: np.ndarray
    by_class: list[ClassAccuracy]
    mistakes: Tensor
    titles: list[str]

    @property
    def images(self) -> int:
        """N."""
        return int(self.confusion.sum())


@torch.inference_mode()
def class_findings(
    model: nn.Module,
    record: ModelRecord,
    batches: Sequence[Batch],
    classes: list[str],
    worst: int = 12,
) -> ClassFindings:
    """Runs a classifier over images.

    Args:
        model: the classifier.
        record: the record of the model.
        batches: images that are not normalized, with the indices of their classes.
        classes: the class names of the data.
        worst: the largest number of mistakes that are kept.

    Raises:
        InputError: the classes are not those of the model.
    """
    columns = match_classes(record.classes, classes).columns
    logits = torch.cat([model(images)[:, columns] for images in normalized(batches, record)])
    labels = torch.cat([batch.labels for batch in batches])
    predicted = logits.argmax(-1)
    matrix = confusion_matrix(labels.numpy(), predicted.numpy(), len(classes))
    losses = functional.cross_entropy(logits, labels, reduction="none")
    losses[predicted == labels] = -1.0
    order = losses.argsort(descending=True)[: min(worst, int((predicted != labels).sum()))]
    confidence = logits.softmax(-1).amax(-1)
    titles = [
        f"true: {classes[labels[i]]}\npredicted: {classes[predicted[i]]}\n"
        f"with {100 * float(confidence[i]):.0f} %"
        for i in order.tolist()
    ]
    pictures = torch.cat([batch.images for batch in batches])[order]
    return ClassFindings(classes, matrix, class_accuracies(matrix, classes), pictures, titles)
