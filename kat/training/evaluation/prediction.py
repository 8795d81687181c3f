"""Predictions for a single image, and of a classifier for a whole split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Prediction:
    """The prediction for a single image.

    Args:
        entries: classes or objects, the most important first; each has a ``class`` and the task's
            value, e.g. ``probability``.
        pictures: images to save, by the suffix that is added to the image's name.
    """

    entries: list[dict[str, Any]]
    pictures: dict[str, Image.Image] = field(default_factory=dict)


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
        """(N, k) bool: whether each class in ``top`` is the true one."""
        return self.top == self.labels[:, None]
