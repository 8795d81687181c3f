"""Predictions and metrics of a classifier: confusion matrix, recall per class, calibration.

N is the number of images and K the number of classes; labels and predictions are indices below K.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from kat.data import Batch, DeviceTransform, ImageDataset
from kat.training.nonfinite import finite_output
from kat.training.optim.precision import Precision
from kat.training.tasks.evaluation import EvalJob, batches_of, device_of
from kat.training.tasks.task import Metrics

BINS = 15
TOP = 5
"""The number of most likely classes that are kept for each image."""


class ClassificationMetrics(Metrics):
    """Mean loss, and top-1 and top-5 in percent, over the images of all ranks.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(TOP, classes), average="micro")

    def update(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Add the logits of a batch; return its mean cross entropy."""
        loss = functional.cross_entropy(predictions.float(), labels)
        self.loss.update(loss.expand(len(labels)))
        self.top1.update(predictions, labels)
        self.top5.update(predictions, labels)
        return loss

    def compute(self) -> dict[str, Tensor]:
        """Return ``loss``, ``top1`` and ``top5``; a collective."""
        top1, top5 = self.top1.compute(), self.top5.compute()
        return {"loss": self.loss.compute(), "top1": 100 * top1, "top5": 100 * top5}


class ClassScores(NamedTuple):
    """Recall, precision and F1 of one class.

    Args:
        name: name of the class.
        images: number of images of the class.
        correct: number of these images that are predicted correctly.
        predicted: number of images of any class that are predicted as this class.
        mistaken_for: most frequent wrong prediction for its images, or None.
    """

    name: str
    images: int
    correct: int
    predicted: int
    mistaken_for: str | None

    @property
    def recall(self) -> float | None:
        """Correctly predicted share of its images, in percent; None if the class has no images."""
        return 100 * self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Correct share of the predictions of this class, in percent; None if there are none."""
        return 100 * self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, in percent; None without images of either kind."""
        either = self.images + self.predicted
        return 200 * self.correct / either if either else None


@dataclass(frozen=True)
class Confused:
    """The images of class ``true`` that are predicted as ``predicted``: ``count`` of ``images``."""

    true: str
    predicted: str
    count: int
    images: int


class Calibration(NamedTuple):
    """Confidence against accuracy, in bins of equal width; see :func:`calibration`.

    Args:
        edges: (bins + 1,), from 0 to 1.
        counts: (bins,), number of images per bin.
        confidence: (bins,), mean confidence per bin; NaN in an empty bin.
        accuracy: (bins,), share of correct predictions per bin; NaN in an empty bin.
        ece: expected calibration error, in [0, 1].

    Examples:
        >>> import numpy as np
        >>> from kat.analysis import calibration
        >>> half_right = calibration(np.full(10, 0.95), np.arange(10) % 2 == 0)
        >>> f"{half_right.ece:.2f}"
        '0.45'
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Return (K, K) int64: entry (i, j) is the number of images of class i predicted as class j.

    Examples:
        >>> import numpy as np
        >>> from kat.analysis import confusion_matrix
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2)
        array([[1, 1],
               [0, 1]])
    """
    cells = np.bincount(labels * classes + predictions, minlength=classes**2)
    return cells.reshape(classes, classes)


def class_scores(matrix: np.ndarray, names: list[str]) -> list[ClassScores]:
    """Return recall, precision and F1 of each class.

    Args:
        matrix: (K, K), from :func:`confusion_matrix`.
        names: K class names.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    worst = wrong.argmax(axis=1)
    images, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    rows = []
    for i, name in enumerate(names):
        mistaken_for = names[worst[i]] if wrong[i].any() else None
        rows.append(
            ClassScores(name, int(images[i]), int(matrix[i, i]), int(predicted[i]), mistaken_for)
        )
    return rows


def macro_means(rows: Sequence[ClassScores]) -> dict[str, float]:
    """Return the means of recall, precision and F1 over the classes that occur, in percent.

    A class occurs if it has images or is predicted. A score of it that is undefined counts as 0, as
    in scikit-learn.
    """
    present = [row for row in rows if row.images or row.predicted]
    means = {}
    for name in ("recall", "precision", "f1"):
        total = sum(getattr(row, name) or 0.0 for row in present)
        means[f"macro_{name}"] = total / len(present)
    return means


def most_confused(matrix: np.ndarray, names: list[str], count: int) -> list[Confused]:
    """Return the most frequent pairs (true class, wrongly predicted class), in descending order.

    Args:
        matrix: (K, K), from :func:`confusion_matrix`.
        names: K class names.
        count: maximum number of pairs.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = (divmod(int(cell), len(names)) for cell in order)
    return [
        Confused(names[i], names[j], int(wrong[i, j]), int(matrix[i].sum()))
        for i, j in pairs
        if wrong[i, j]
    ]


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Compute the expected calibration error, ECE = sum_b n_b / N |accuracy_b - confidence_b|.

    The bins are ((b - 1) / bins, b / bins]; a confidence of 0 falls into the first one. Source: Guo
    et al. 2017.

    Args:
        confidence: (N,), probability of the predicted class, in [0, 1].
        correct: (N,) bool, whether the prediction is correct.
        bins: number of bins.

    Examples:
        >>> import numpy as np
        >>> from kat.analysis import calibration
        >>> result = calibration(np.array([0.9, 0.9, 0.6]), np.array([True, True, False]), bins=2)
        >>> f"{result.ece:.2f}"
        '0.13'
    """
    edges = np.linspace(0, 1, bins + 1)
    confidence = confidence.astype(np.float64)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    total_confidence = np.bincount(index, confidence, bins)
    total_correct = np.bincount(index, correct, bins)
    ece = np.abs(total_correct - total_confidence).sum() / len(confidence)
    filled = np.where(counts, counts, np.nan)
    return Calibration(edges, counts, total_confidence / filled, total_correct / filled, float(ece))


@dataclass
class ClassPredictions:
    """The predictions of a classifier for the N readable images of a split, in its order.

    Args:
        names: path or other name of each image.
        labels: (N,) int64, true class, as an index into the classes of the data.
        top: (N, k) int64, the k most likely classes, the most likely first; k is 5 or the number of
            classes, if that is smaller.
        probabilities: (N, k) float32, probabilities of the classes in ``top``.
        true_probability: (N,) float32, probability of the true class.
        losses: (N,) float32, cross entropy of each image.
        logits: (N, classes) float32, or None if they are not kept.
    """

    names: list[str]
    labels: np.ndarray
    top: np.ndarray
    probabilities: np.ndarray
    true_probability: np.ndarray
    losses: np.ndarray
    logits: np.ndarray | None = None

    @property
    def hits(self) -> np.ndarray:
        """(N, k) bool: True where a class in ``top`` is the true one."""
        return self.top == self.labels[:, None]


@torch.inference_mode()
def predict_classes(
    job: EvalJob, columns: Sequence[int]
) -> tuple[ClassPredictions, dict[str, str]]:
    """Run a classifier over a split; every readable image counts once.

    Args:
        job: the evaluation; the transform of its images is set.
        columns: for each class of the data, its index among the model's classes.

    Returns:
        The predictions, and the unreadable images with the reason for each.

    Raises:
        InputError: no image can be read, or logits are not finite.
    """
    subject, images, data, config, _ = job
    device = device_of(subject.model, config)
    model = subject.model.eval()
    prepare = DeviceTransform(subject.record.mean, subject.record.std)
    precision = Precision(config.precision, device)
    kept: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    seen: list[str] = []
    unreadable: dict[str, str] = {}
    names = _readable_names(images, unreadable)
    for batch in _limited(batches_of(images, data, config.progress), config.limit):
        unreadable |= dict(batch.unreadable)
        seen += islice(names, len(batch.labels))
        if len(batch.labels) == 0:
            continue
        prepared = prepare(batch.images.to(device, non_blocking=True))
        with precision.autocast():
            logits = finite_output(subject.source, model, partial(model, prepared)).float()
        for name, tensor in _kept(logits, batch.labels, columns, config.keep_logits).items():
            kept[name].append(tensor.cpu().numpy())
    fields = {name: np.concatenate(parts) for name, parts in kept.items()}
    return ClassPredictions(seen, **fields), unreadable


def _kept(
    logits: Tensor, labels: Tensor, columns: Sequence[int], keep_logits: bool
) -> dict[str, Tensor]:
    """Return the fields of :class:`ClassPredictions` for a batch, except the names."""
    logits = logits[:, torch.tensor(columns, device=logits.device)]
    labels = labels.to(logits.device)
    log_probability = logits.log_softmax(-1)
    true = log_probability.gather(1, labels[:, None])[:, 0]
    top = logits.topk(min(TOP, logits.shape[1])).indices
    kept = {
        "labels": labels,
        "top": top,
        "probabilities": log_probability.gather(1, top).exp(),
        "true_probability": true.exp(),
        "losses": -true,
    }
    if keep_logits:
        kept["logits"] = logits
    return kept


def _readable_names(images: ImageDataset, unreadable: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of the readable images in the order of evaluation.

    ``unreadable`` is read as the evaluation goes on.
    """
    names = map(images.name, range(len(images)))
    return (name for name in names if name not in unreadable)


def _limited(batches: Iterator[Batch], limit: int | None) -> Iterator[Batch]:
    """Yield the batches of the first ``limit`` images."""
    left = sys.maxsize if limit is None else limit
    for batch in batches:
        yield batch._replace(images=batch.images[:left], labels=batch.labels[:left])
        left -= len(batch.labels)
        if left <= 0:
            return
