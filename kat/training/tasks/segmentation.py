"""Semantic segmentation: cross entropy of every pixel, the mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from kat.data.dense import IGNORE
from kat.errors import InputError
from kat.models import ModelRecord
from kat.models.dense import resized_strips
from kat.text import quoted
from kat.training.module import TaskModule
from kat.training.tasks.metrics import Score, Scores

AUXILIARY = 0.4
"""The weight of the auxiliary head's loss, as in UperNet's own training."""


class SegmentationModule(TaskModule):
    """Trains and validates a model of semantic segmentation, on whole images.

    Args:
        model: a :class:`kat.models.dense.UperNet`.
        record: describes the model; stored in every checkpoint.
        config: the run's settings.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("miou", "mIoU"),
        Score("pixel_accuracy", "pixel accuracy"),
        Score("class_accuracy", "class accuracy"),
    )

    def make_scores(self, record: ModelRecord) -> Scores:
        """Loss, mIoU, and the accuracy of pixels, and of classes in the mean."""
        return SegmentationScores(len(record.classes))

    def on_fit_start(self) -> None:
        """Checks that batch norm has something to norm over: its coarsest map is of one pixel.

        Raises:
            InputError: it is alone with one image.
        """
        norms = [module for module in self.model.modules() if type(module) is nn.BatchNorm2d]
        if norms and self.config.data.batch_size == 1:
            raise InputError(
                "data.batch_size=1 leaves nothing to the model's batch norm: take 2 or more, or"
                " model.args.norm=layer"
            )
        super().on_fit_start()

    def forward(self, images: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        """The probabilities (K, H, W) of each image, one after the other; their sizes may differ.

        Of 150 classes those of a single image of 512 x 683 pixels are 210 MB.
        """
        for image in images:
            yield self.model(image[None])[0].float().softmax(0)

    def loss(self, output: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Cross entropy of the head, and 0.4 of the auxiliary head's."""
        main, auxiliary = (pixel_loss(logits, labels) for logits in output)
        return main + AUXILIARY * auxiliary


def pixel_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that have a class; 0 where none has.

    Args:
        logits: (B, K, H, W).
        mask: (B, H, W), the index of a class or :data:`kat.data.dense.IGNORE`.
    """
    total = functional.cross_entropy(
        logits.float(), mask.long(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (mask != IGNORE).sum().clamp(min=1)


class SegmentationScores(Scores):
    """Mean loss of the images, mIoU and accuracies in per cent, over all processes.

    With n_ij pixels of class i taken for class j, over the classes that are there or were named,

        IoU_i           = n_ii / (sum_j n_ij + sum_j n_ji - n_ii)
        pixel accuracy  = sum_i n_ii / sum_ij n_ij
        class accuracy  = mean of n_ii / sum_j n_ij over the classes that are there

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")
        self.confusion = MulticlassConfusionMatrix(
            classes, ignore_index=IGNORE, validate_args=False
        )

    def update(self, output: Iterable[Tensor], labels: Any) -> Tensor:
        """Counts the pixels of images by their probabilities (K, h, w), resized to their masks."""
        # zip would keep an image's answer until the next one is there
        loss = torch.stack(list(map(self._count, output, labels)))
        self.loss.update(loss)
        return loss.mean()

    def _count(self, probabilities: Tensor, mask: Tensor) -> Tensor:
        """Counts an image, and gives its loss: finite, also where a probability is 0."""
        total = probabilities.new_zeros(())
        for rows, part in resized_strips(probabilities, mask.shape):
            true = mask[None, rows].long()
            self.confusion.update(part.argmax(0)[None], true)
            likelihood = part.clamp(min=torch.finfo(part.dtype).tiny).log()[None]
            total += functional.nll_loss(likelihood, true, ignore_index=IGNORE, reduction="sum")
        return total / (mask != IGNORE).sum().clamp(min=1)

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``miou``, ``pixel_accuracy`` and ``class_accuracy``."""
        counts = self._counts()
        right, there = counts.diagonal(), counts.sum(1)
        return {
            "loss": self.loss.compute(),
            "miou": 100 * self.by_class().nanmean(),
            "pixel_accuracy": 100 * right.sum() / there.sum(),
            "class_accuracy": 100 * (right / there).nanmean(),
        }

    def by_class(self) -> Tensor:
        """(K,) float64: the IoU of each class, NaN of one that is neither there nor named."""
        counts = self._counts()
        right = counts.diagonal()
        return right / (counts.sum(0) + counts.sum(1) - right)

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Which classes no pixel has: mIoU may be high where what matters is nowhere."""
        there = self._counts().sum(1).tolist()
        absent = [name for name, pixels in zip(classes, there, strict=True) if not pixels]
        listed = quoted(absent, "class", "classes")
        return [f"note: validation has no pixel of {listed}"] if absent else []

    def _counts(self) -> Tensor:
        """The confusion of all processes in float64, on the CPU: not every device has that."""
        return self.confusion.compute().cpu().double()

    def reset(self) -> None:
        """Forgets all."""
        self.loss.reset()
        self.confusion.reset()
