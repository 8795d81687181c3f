"""Temperature scaling: probabilities with a lower calibration error.

Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from torch import nn

from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.tasks.classification.metrics import ClassPredictions, calibration

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
        return cross_entropy(logits.astype(np.float64) / math.exp(log_temperature), labels)

    bound = math.log(_LARGEST)
    found = minimize_scalar(loss, bounds=(-bound, bound), options={"xatol": 1e-6}).x
    if loss(found) >= min(loss(-bound), loss(bound)):
        raise InputError(
            f"the labels of {len(labels)} images determine no temperature: nearly all are right, or"
            " the model guesses. Calibrate with more images, none of them of the training"
        )
    return math.exp(found)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of -log softmax(logits)[label]."""
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


def calibration_of(predictions: ClassPredictions) -> dict[str, float]:
    """Return the temperature of all images, and loss and calibration error before and after.

    After it, each half of the images has the temperature of the other half.

    Args:
        predictions: with their logits.

    Raises:
        InputError: the labels determine no temperature, or the loss does not fall.
    """
    logits, labels = predictions.logits, predictions.labels
    assert logits is not None
    temperature = fit_temperature(logits, labels)
    scaled = logits.astype(np.float64)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for half, other in ((even, odd), (odd, even)):
        scaled[half] /= fit_temperature(logits[other], labels[other])
    before = float(predictions.losses.mean(dtype=np.float64))
    after = cross_entropy(scaled, labels)
    if after > before:
        raise InputError(
            f"a temperature of half of the {len(labels)} images does not lower the loss of the"
            f" other half, {before:.4f}: calibrate with more images"
        )
    correct = predictions.hits[:, 0]
    return {
        "temperature": temperature,
        "images": len(labels),
        "loss_before": before,
        "loss_after": after,
        "ece_before": calibration(predictions.probabilities[:, 0], correct).ece,
        "ece_after": calibration(softmax(scaled, axis=1).max(axis=1), correct).ece,
    }


@torch.no_grad()
def divide_logits(model: nn.Module, record: ModelRecord, divisor: float) -> None:
    """Divide the logits of a classifier: the weights and the bias of its last layer.

    Args:
        model: the classifier, in evaluation mode.
        record: its record.
        divisor: of the logits.

    Raises:
        InputError: its logits are no linear map of the inputs of a last layer.
    """
    find: Any = getattr(model, "get_classifier", None)
    layer = None if find is None else find()
    if isinstance(layer, nn.Linear):
        x = torch.randn(1, *record.input_size, device=layer.weight.device)
        expected = model(x) / divisor
        for parameter in layer.parameters():
            parameter.div_(divisor)
        if torch.allclose(model(x), expected, rtol=1e-3, atol=1e-5):
            return
    raise InputError(f"{record.architecture} cannot be calibrated: its last layer is not linear")


def described(values: Mapping[str, float]) -> str:
    """Return a sentence about a calibration."""
    return (
        f"calibrated with temperature {values['temperature']:.3f}, fitted to {values['images']:.0f}"
        f" images: loss {values['loss_before']:.4f} before and {values['loss_after']:.4f} after,"
        f" calibration error {values['ece_before']:.4f} and {values['ece_after']:.4f}, where after"
        " means each half of the images with the temperature of the other half"
    )
