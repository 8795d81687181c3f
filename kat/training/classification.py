"""Image classification as a Lightning module: loss, metrics, optimiser and schedule."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_only
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from kat.data import AugmentConfig, Batch
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.diagnosis import Attempt, random_state
from kat.training.frozen import frozen_to_eval
from kat.training.optimizer import make_optimizer, make_schedule, optimizer_layout


class Classifier(LightningModule):
    """Trains and validates a classifier.

    Args:
        model: maps (B, C, H, W) to logits (B, classes).
        record: describes the model; stored in every checkpoint.
        config: the run's settings.
    """

    def __init__(self, model: nn.Module, record: ModelRecord, config: TrainConfig) -> None:
        super().__init__()
        self.save_hyperparameters({"record": dataclasses.asdict(record)})
        self.model = model
        self.config = config
        self.layout = optimizer_layout(model, config.optim)
        classes = len(record.classes)
        self.mixup = _mixup(config.augment, classes)
        self.train_loss = MeanMetric(nan_strategy="disable")  # which makes it ignore weights
        self.val_loss = MeanMetric(nan_strategy="disable")
        self.val_images = SumMetric()
        self.val_top1 = MulticlassAccuracy(classes, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")
        self.skipped: set[str] = set()
        self.attempt: Attempt | None = None
        """The last forward pass, until its outcome is checked."""

    def train(self, mode: bool = True) -> Classifier:
        """Sets the mode; what is frozen stays in eval mode."""
        super().train(mode)
        frozen_to_eval(self.model)
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says what the optimiser's state is of."""
        checkpoint["optimizer"] = self.layout

    def forward(self, images: Tensor) -> Tensor:
        """The logits of a batch of images."""
        return self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy, with mixed images and soft labels where mixup or cutmix are on."""
        images, labels, unreadable = batch
        self._report(unreadable)
        if len(labels) == 0:
            raise InputError(f"no image of a batch can be read, first {unreadable[0]}")
        if self.mixup is not None:  # timm's needs pairs
            even = len(labels) - len(labels) % 2
            images, labels = self.mixup(images[:even], labels[:even])
        smoothing = self.config.augment.label_smoothing if self.mixup is None else 0.0
        random = random_state(images.device)
        loss = functional.cross_entropy(self(images), labels, label_smoothing=smoothing)
        self.attempt = Attempt(images, loss.detach(), random)
        self.train_loss.update(loss.detach().expand(len(labels)))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def on_train_epoch_end(self) -> None:
        """Logs the mean loss of the epoch."""
        self.log("train/loss", self.train_loss.compute())
        self.train_loss.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Counts right answers; every readable image counts once. Gives the batch's mean loss."""
        images, labels, unreadable = batch
        self._report(unreadable)
        self.val_images.update(len(labels))
        if len(labels) == 0:
            return None
        logits = self(images).float()
        loss = functional.cross_entropy(logits, labels)
        self.val_loss.update(loss.expand(len(labels)))
        self.val_top1.update(logits, labels)
        self.val_top5.update(logits, labels)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Logs loss, top-1 and top-5 in per cent."""
        if self.val_images.compute() == 0:  # of all processes; one alone may have none
            raise InputError("the validation split has no image that can be read")
        self.log("val/loss", self.val_loss.compute())
        self.log("val/top1", 100 * self.val_top1.compute(), prog_bar=True)
        self.log("val/top5", 100 * self.val_top5.compute())
        for metric in (self.val_loss, self.val_images, self.val_top1, self.val_top5):
            metric.reset()

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, as the settings say."""
        optim = self.config.optim
        optimizer = make_optimizer(self.model, optim)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = make_schedule(optimizer, optim, self.config.epochs, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """timm's schedulers are functions of the number of steps taken."""
        scheduler.step_update(self.trainer.global_step)

    def _report(self, unreadable: list[str]) -> None:
        for path in unreadable:
            if self.config.data.bad_images == "fail":
                raise InputError(f"{path} cannot be read as an image")
        self.skip(unreadable, "it cannot be read as an image")

    def skip(self, paths: list[str], reason: str) -> None:
        """Names each file that is left out, once."""
        for path in paths:
            if path not in self.skipped:
                self.skipped.add(path)
                rank_zero_only(sys.stdout.write)(f"skipped {path}: {reason}\n")


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
