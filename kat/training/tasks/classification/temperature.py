"""Temperature scaling: probabilities that say how often a classifier is right.

Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import nn

from kat.errors import InputError
from kat.models import is_model_folder, load_model, save_model
from kat.training.tasks.classification.metrics import ClassPredictions, calibration
from kat.training.tasks.evaluation import Evaluation

_LARGEST = 100.0
"""The largest temperature; the smallest is its inverse."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T that minimizes the mean of -log softmax(logits / T)[label].

    Args:
        logits: (N, K).
        labels: (N,), class indices.

    Raises:
        InputError: no T between 0.01 and 100 does, as where every image is classified correctly.

    Examples:
        >>> import numpy as np
        >>> from kat.training.tasks.classification.temperature import fit_temperature
        >>> three_of_four = np.array([0, 0, 0, 1])
        >>> round(fit_temperature(np.array([[9.0, 0.0]] * 4), three_of_four), 2)  # 9 / log 3
        8.19
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        return -log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean()

    bound = math.log(_LARGEST)
    found = minimize_scalar(loss, bounds=(-bound, bound), options={"xatol": 1e-6}).x
    if loss(found) >= min(loss(-bound), loss(bound)):
        raise InputError(
            f"the labels of {len(labels)} images determine no temperature, since nearly all or none"
            " are classified correctly: calibrate with more images, which are not those of the"
            " training"
        )
    return math.exp(found)


def calibration_of(predictions: ClassPredictions) -> dict[str, float]:
    """Return the temperature of all images, and the calibration error before and after.

    Each half of the images is measured with the temperature of the other half.

    Args:
        predictions: with their logits.
    """
    logits, labels = predictions.logits, predictions.labels
    assert logits is not None
    scaled = logits.astype(np.float64)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for half, other in ((even, odd), (odd, even)):
        scaled[half] /= fit_temperature(logits[other], labels[other])
    correct = predictions.hits[:, 0]
    return {
        "temperature": fit_temperature(logits, labels),
        "images": len(labels),
        "ece_before": calibration(predictions.probabilities[:, 0], correct).ece,
        "ece_after": calibration(softmax(scaled, axis=1).max(axis=1), correct).ece,
    }


def last_layer(model: nn.Module, folder: str | Path) -> nn.Linear:
    """Return the layer that computes the logits of the model in a folder.

    Raises:
        InputError: it is not in a folder, or it is no classifier with a linear last layer.
    """
    find: Any = getattr(model, "get_classifier", None)
    layer = None if find is None else find()
    if not isinstance(layer, nn.Linear) or not is_model_folder(folder):
        raise InputError(
            f"{folder} cannot be calibrated: give a run directory, or the folder of a model, with a"
            " classifier whose last layer is linear"
        )
    return layer


@torch.no_grad()
def calibrate(folder: str | Path, found: Evaluation) -> None:
    """Divide the logits of the model in a folder by the temperature of its predictions.

    The weights and the bias of the last layer are divided, so that every export of the model, and
    every program that reads it, computes calibrated probabilities. best.ckpt of a run stays as it
    is.

    Args:
        folder: the run directory or the folder of the model.
        found: the evaluation of the model, with logits. It takes the result.
    """
    values = calibration_of(found.predictions)
    model, record = load_model(folder)
    for parameter in last_layer(model, folder).parameters():
        parameter.div_(values["temperature"])
    before = (record.calibration or {}).get("temperature", 1.0)
    kept = {**values, "temperature": before * values["temperature"]}
    save_model(model, replace(record, calibration=kept), folder)
    found.details["calibrated"] = values
    found.lines.append(described(values))


def described(values: Mapping[str, float]) -> str:
    """Return a sentence about a calibration."""
    return (
        f"calibrated with temperature {values['temperature']:.3f}, fitted to {values['images']}"
        f" images: ECE {values['ece_before']:.4f} before, {values['ece_after']:.4f} after, each"
        " half of the images with the temperature of the other half"
    )
