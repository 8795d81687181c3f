"""Confusion matrix, accuracy per class and calibration of a classifier.

N is the number of images and K the number of classes; labels and predictions are indices below K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BINS = 15


class ClassAccuracy(NamedTuple):
    """The accuracy of one class.

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
    def accuracy(self) -> float | None:
        """In percent; None if the class has no images."""
        return 100 * self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Correct share of the predictions of this class, in percent; None if there are none."""
        return 100 * self.correct / self.predicted if self.predicted else None


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
    """(K, K) int64; entry (i, j) is the number of images of class i predicted as class j.

    Examples:
        >>> import numpy as np
        >>> from kat.analysis import confusion_matrix
        >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=2)
        array([[1, 1],
               [0, 1]])
    """
    cells = np.bincount(labels * classes + predictions, minlength=classes**2)
    return cells.reshape(classes, classes)


def class_accuracies(matrix: np.ndarray, names: list[str]) -> list[ClassAccuracy]:
    """The accuracy of each class.

    Args:
        matrix: (K, K), from :func:`confusion_matrix`.
        names: K class names.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    worst = wrong.argmax(axis=1)
    images, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    return [
        ClassAccuracy(
            name,
            int(images[i]),
            int(matrix[i, i]),
            int(predicted[i]),
            names[worst[i]] if wrong[i, worst[i]] else None,
        )
        for i, name in enumerate(names)
    ]


def most_confused(matrix: np.ndarray, names: list[str], count: int) -> list[Confused]:
    """The most frequent pairs (true class, wrongly predicted class), in descending order.

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


def calibration_rows(found: Calibration) -> list[dict[str, float]]:
    """The bins of a calibration as rows of a table."""
    columns = (found.edges[:-1], found.edges[1:], found.counts, found.confidence, found.accuracy)
    names = ("from", "to", "images", "confidence", "accuracy")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Expected calibration error, ECE = sum_b n_b / N |accuracy_b - confidence_b|.

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
