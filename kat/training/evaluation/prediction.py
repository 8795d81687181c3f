"""What models predict: for a single image, and a classifier for a whole split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor


@dataclass
class Prediction:
    """What a model says of a single image.

    Args:
        entries: the most important first; each has a ``class`` and the task's figure.
        pictures: uint8 images to be saved, by what is added to the name of the image.
    """

    entries: list[dict[str, Any]]
    pictures: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ClassPredictions:
    """What a classifier predicts for the N images that could be read, in the order of the split.

    Args:
        names: the file's path, or what else names the image.
        labels: (N,) int64, the true class among those of the data.
        top: (N, k) int64, the most likely classes first; k = 5 or the number of classes.
        probabilities: (N, k) float32, theirs.
        true_probability: (N,) float32, that of the true class.
        losses: (N,) float32, the cross entropy of each image.
        logits: (N, classes) float32, if they were asked for.
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
        """(N, k) bool: which of the most likely classes is the true one."""
        return self.top == self.labels[:, None]
