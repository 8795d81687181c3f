"""Image classification: cross entropy, mixup, top-1 and top-5."""

from __future__ import annotations

from typing import ClassVar

from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from kat.data import AugmentConfig, eval_transform, train_transform
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.tasks.task import Metric, Metrics, Task, Transforms


class Classification(Task):
    """Classification of whole images; the model maps (B, C, H, W) to logits (B, classes)."""

    name: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("top1", "top-1"), Metric("top5", "top-5"))
    example_models: ClassVar[str] = "kat_tiny_patch16_224, kat_micro"
    unused_settings: ClassVar[tuple[str, ...]] = (
        "detection",
        "segmentation",
        "data.bad_annotations",
    )

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        super().__init__(config, record)
        self.random_erasing = config.augment.random_erasing
        self.mixup = _mixup(config.augment, len(record.classes))

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """timm's; normalization is left to the device."""
        return train_transform(record, config.augment), eval_transform(record, normalize=False)

    def make_metrics(self) -> Metrics:
        """Loss, top-1 and top-5."""
        return ClassificationMetrics(len(self.record.classes))

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

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = model(images)
        return logits


class ClassificationMetrics(Metrics):
    """Mean loss, and top-1 and top-5 in per cent, over the images of all ranks.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")

    def update(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Counts the logits of a batch; returns its mean cross entropy."""
        loss = functional.cross_entropy(predictions.float(), labels)
        self.loss.update(loss.expand(len(labels)))
        self.top1.update(predictions, labels)
        self.top5.update(predictions, labels)
        return loss

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``top1`` and ``top5``; a collective."""
        top1, top5 = self.top1.compute(), self.top5.compute()
        return {"loss": self.loss.compute(), "top1": 100 * top1, "top5": 100 * top5}

    def reset(self) -> None:
        """Forgets everything."""
        for metric in (self.loss, self.top1, self.top5):
            metric.reset()


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
