"""Confusion, accuracy by class and calibration of a classifier, from its predictions.

N is the number of images and K that of classes; labels and predictions are indices below K.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BINS = 15


class ClassAccuracy(NamedTuple):
    """The accuracy of a class.

    Args:
        name: of the class.
        images: how many there are of it.
        correct: how many of them are taken for it.
        predicted: how many images of any class are taken for it.
        mistaken_for: the class that its images are most often taken for wrongly, or None.
    """

    name: str
    images: int
    correct: int
    predicted: int
    mistaken_for: str | None

    @property
    def accuracy(self) -> float | None:
        """Per cent; None without an image."""
        return 100 * self.correct / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Per cent of the images that are taken for it; None where none is."""
        return 100 * self.correct / self.predicted if self.predicted else None


@dataclass(frozen=True)
class Confused:
    """Images of one class that are taken for another: how many, and of how many."""

    true: str
    predicted: str
    count: int
    images: int


class Calibration(NamedTuple):
    """Confidence against accuracy, in bins of equal width; see :func:`calibration`.

    Args:
        edges: (bins + 1,), from 0 to 1.
        counts: (bins,), images in each.
        confidence: (bins,), the mean in each; NaN in an empty one.
        accuracy: (bins,), the share of correct predictions in each; NaN in an empty one.
        ece: the expected calibration error, in [0, 1].
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    ece: float


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Entry (i, j) counts the images of class i that are taken for j; (K, K) int64."""
    cells = np.bincount(labels * classes + predictions, minlength=classes**2)
    return cells.reshape(classes, classes)


def class_accuracies(matrix: np.ndarray, names: list[str]) -> list[ClassAccuracy]:
    """Accuracy by class, in order of the classes.

    Args:
        matrix: (K, K), from :func:`confusion_matrix`.
        names: the K class names.
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
    """The pairs (true class, predicted class) with the most images, the most first.

    Args:
        matrix: (K, K), from :func:`confusion_matrix`.
        names: the K class names.
        count: at most so many pairs.
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
    """A calibration as a list of its bins."""
    columns = (found.edges[:-1], found.edges[1:], found.counts, found.confidence, found.accuracy)
    names = ("from", "to", "images", "confidence", "accuracy")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Expected calibration error (Guo et al. 2017): ECE = sum_b n_b / N |accuracy_b - confidence_b|

    over bins ((b - 1) / bins, b / bins] of the confidence; 0 falls into the first.

    Args:
        confidence: (N,), the probability of the likeliest class, in [0, 1].
        correct: (N,) bool, whether it is the true one.
        bins: how many.
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
