"""Image classification: cross entropy, mixup, top-1 and top-5."""

from __future__ import annotations

from typing import ClassVar

from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional

from kat.data import AugmentConfig
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.module import TaskModule
from kat.training.tasks.metrics import ClassificationScores, Score, Scores


class Classifier(TaskModule):
    """Trains and validates a classifier.

    Args:
        model: maps (B, C, H, W) to logits (B, classes).
        record: describes the model; stored in every checkpoint.
        config: the run's settings.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("top1", "top-1"), Score("top5", "top-5"))

    def __init__(self, model: nn.Module, record: ModelRecord, config: TrainConfig) -> None:
        super().__init__(model, record, config, config.augment.random_erasing)
        self.mixup = _mixup(config.augment, len(record.classes))

    def make_scores(self, record: ModelRecord) -> Scores:
        """Loss, top-1 and top-5."""
        return ClassificationScores(len(record.classes))

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images and soft labels, where mixup or cutmix are on."""
        if self.mixup is None:
            return images, labels
        even = len(labels) - len(labels) % 2  # timm's needs pairs
        mixed: tuple[Tensor, Tensor] = self.mixup(images[:even], labels[:even])
        return mixed

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy; mixed labels are smooth already."""
        smoothing = self.config.augment.label_smoothing if self.mixup is None else 0.0
        return functional.cross_entropy(output, labels, label_smoothing=smoothing)


def _mixup(augment: AugmentConfig, classes: int) -> Mixup | None:
    if augment.mixup == 0 and augment.cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mixup_prob,
        switch_prob=augment.mixup_switch_prob,
        label_smoothing=augment.label_smoothing,
        num_classes=classes,
    )
