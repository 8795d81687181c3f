"""Mean intersection over union and accuracies of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from kat.data.dense import IGNORE
from kat.models.dense import resized_strips
from kat.text import quoted
from kat.training.tasks.task import Metrics


class SegmentationMetrics(Metrics):
    """Mean loss of the images, mIoU and accuracies in percent, over all ranks.

    With n_ij the number of pixels of class i that are predicted as class j,

        IoU_i           = n_ii / (sum_j n_ij + sum_j n_ji - n_ii)
        pixel accuracy  = sum_i n_ii / sum_ij n_ij
        class accuracy  = mean of n_ii / sum_j n_ij over the classes that occur

    mIoU is the mean over the classes that occur or are predicted.

    Args:
        classes: number of classes K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")
        self.confusion = MulticlassConfusionMatrix(
            classes, ignore_index=IGNORE, validate_args=False
        )

    def update(self, output: Iterable[Tensor], labels: Any) -> Tensor:
        """Add images by their probabilities (K, h, w), which are resized to the masks."""
        labels = list(labels)
        # zip would keep an image's prediction until the next one is computed
        loss = torch.stack(list(map(self._count, output, labels)))
        labeled = torch.stack([(mask != IGNORE).any() for mask in labels])
        self.loss.update(loss[labeled])  # an image without labels has no loss
        return loss.mean()

    def _count(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """Add an image and return its loss, which is finite even if a probability is 0."""
        total = probabilities.new_zeros(())
        for rows, part in resized_strips(probabilities, mask.shape):
            true = mask[None, rows].long()
            self.confusion.update(part.argmax(0)[None], true)
            likelihood = part.clamp(min=torch.finfo(part.dtype).tiny).log()[None]
            total += functional.nll_loss(likelihood, true, ignore_index=IGNORE, reduction="sum")
        return total / (mask != IGNORE).sum().clamp(min=1)

    def compute(self) -> dict[str, Tensor]:
        """Return ``loss``, ``miou``, ``pixel_accuracy`` and ``class_accuracy``."""
        counts = self._counts()
        right, there = counts.diagonal(), counts.sum(1)
        return {
            "loss": self.loss.compute(),
            "miou": 100 * self.by_class().nanmean(),
            "pixel_accuracy": 100 * right.sum() / there.sum(),
            "class_accuracy": 100 * (right / there).nanmean(),
        }

    def by_class(self) -> Tensor:
        """Return (K,) float64: the IoU of each class; NaN if it neither occurs nor is predicted."""
        counts = self._counts()
        right = counts.diagonal()
        return right / (counts.sum(0) + counts.sum(1) - right)

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Return a note on classes without pixels, which mIoU does not measure."""
        there = self._counts().sum(1).tolist()
        absent = [name for name, pixels in zip(classes, there, strict=True) if not pixels]
        listed = quoted(absent, "class", "classes")
        return [f"note: validation has no pixel of {listed}"] if absent else []

    def _counts(self) -> Tensor:
        """Return the confusion matrix of all ranks in float64, which MPS does not have."""
        return self.confusion.compute().cpu().double()
