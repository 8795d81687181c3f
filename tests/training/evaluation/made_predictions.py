"""Predictions of a classifier that does not exist."""

from __future__ import annotations

import torch

from kat.training.tasks.classification.metrics import ClassPredictions


def made_predictions(
    images: int, classes: int, seed: int = 0
) -> tuple[ClassPredictions, torch.Tensor]:
    """Predictions that are correct about half of the time, and all their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 2
    probabilities = logits.softmax(-1)
    top = probabilities.topk(min(5, classes))
    true = probabilities[torch.arange(images), labels]
    found = ClassPredictions(
        names=[f"{i}.jpg" for i in range(images)],
        labels=labels.numpy(),
        top=top.indices.numpy(),
        probabilities=top.values.numpy(),
        true_probability=true.numpy(),
        losses=-true.log().numpy(),
    )
    return found, probabilities
