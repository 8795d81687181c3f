"""Semantic segmentation: cross entropy per pixel, mean intersection over union."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kat.data.dense import (
    IGNORE,
    SegmentationDataset,
    SegmentationEvalTransform,
    SegmentationTrainTransform,
)
from kat.data.dense.dataset import no_transform
from kat.data.dense.drawing import caption_factor, draw_classes, palette_image
from kat.data.dense.transforms import resized
from kat.models import ModelRecord
from kat.models.dense import SlidingWindowConfig, predicted_classes, sliding_window_inference
from kat.training.config import TrainConfig
from kat.training.nonfinite import finite_output
from kat.training.tasks.evaluation import EvalJob, Evaluation, ImagePass, Prediction, Subject, Table
from kat.training.tasks.match import match_classes
from kat.training.tasks.segmentation.declared import DECLARED
from kat.training.tasks.segmentation.metrics import SegmentationMetrics
from kat.training.tasks.task import Metrics, Task, Transforms

AUXILIARY = 0.4
"""The weight of the auxiliary head's loss, as in UperNet's own training."""


class Segmentation(Task):
    """A class for each pixel; the model is a :class:`kat.models.dense.UperNet`."""

    declared = DECLARED

    @staticmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Resize, flip and crop images with their masks."""
        channels, size, _ = record.input_size
        training = SegmentationTrainTransform(size, config.segmentation, record.mean)
        return training, SegmentationEvalTransform(size, channels)

    def make_metrics(self) -> Metrics:
        """Create the metrics: loss, mIoU, pixel accuracy and mean class accuracy."""
        return SegmentationMetrics(len(self.record.classes))

    def loss(self, output: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        """Return the cross entropy of the head plus 0.4 times the auxiliary head's."""
        main, auxiliary = (pixel_loss(logits, labels) for logits in output)
        return main + AUXILIARY * auxiliary

    def predict(self, model: nn.Module, images: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the probabilities (K, H, W) of one image at a time; image sizes may differ.

        For 150 classes and an image of 512 x 683 pixels, they take 210 MB.
        """
        for image in images:
            yield model(image[None])[0].float().softmax(0)

    @classmethod
    @torch.inference_mode()
    def evaluate(cls, job: EvalJob) -> Evaluation:
        """Compute mIoU, accuracies, the IoU of each class and the confusion matrix."""
        subject, images = job.subject, job.images
        channels, size, _ = subject.record.input_size
        images.transform = SegmentationEvalTransform(job.config.image_size or size, channels)
        seen = ImagePass(job)
        metrics = SegmentationMetrics(len(images.classes)).to(seen.device)
        columns = seen.columns.to(seen.device)
        for image, mask in seen:
            with seen.precision.autocast():
                probabilities = _probabilities(subject, image, job.options)
            metrics.update([probabilities[columns]], [mask.to(seen.device)])
        figures = {name: float(value) for name, value in metrics.compute().items()}
        by_class = zip(images.classes, (100 * metrics.by_class()).tolist(), strict=True)
        summary = (
            f"mIoU {figures['miou']:.2f}, pixel accuracy {figures['pixel_accuracy']:.2f}, class"
            f" accuracy {figures['class_accuracy']:.2f}, loss {figures['loss']:.4f}"
        )
        return seen.evaluation(
            [summary],
            metrics=figures,
            per_class=Table(("class", "iou"), list(by_class)),
            notes=[*seen.notes, *metrics.notes(images.classes)],
            confusion=metrics.confusion.compute().cpu().numpy(),
        )

    @classmethod
    @torch.inference_mode()
    def predict_images(
        cls,
        subject: Subject,
        images: Iterable[Image.Image],
        options: SlidingWindowConfig,
        draw: bool = False,
    ) -> Iterator[Prediction]:
        """Yield the mask, and the share of pixels of each class, the largest first.

        One picture shows the classes over the image, with a legend; the other is a mask of class
        indices with the same colors as its palette.
        """
        classes = subject.record.classes
        for image in images:
            mask = find_classes(subject, image, options)
            prediction = Prediction(_shares(mask, classes), mask.to(torch.int16))
            if draw:
                pixels = pil_to_tensor(image.convert("RGB"))
                drawn = draw_classes(pixels, mask, classes, caption_factor(pixels))
                colored = palette_image(mask, len(classes))
                prediction.pictures |= {"": to_pil_image(drawn), "_mask": colored}
            yield prediction

    @classmethod
    @torch.inference_mode()
    def draw_beside_truth(
        cls, subject: Subject, images: SegmentationDataset, index: int
    ) -> tuple[Tensor, Tensor]:
        """Draw an image with the classes of its pixels, true and predicted."""
        images.transform = no_transform
        image, there = images[index]
        found = find_classes(subject, image, SlidingWindowConfig())
        pixels, named = pil_to_tensor(image.convert("RGB")), subject.record.classes
        factor = caption_factor(pixels)
        columns = torch.tensor(match_classes(named, images.classes).columns)
        found = columns.argsort()[found]
        drawn = [draw_classes(pixels, mask, images.classes, factor) for mask in (there, found)]
        return drawn[0], drawn[1]


def pixel_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the mean cross entropy over the pixels that have a class; 0 if none has.

    Args:
        logits: (B, K, H, W).
        mask: (B, H, W), class indices or :data:`kat.data.dense.IGNORE`.
    """
    total = functional.cross_entropy(
        logits.float(), mask.long(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (mask != IGNORE).sum().clamp(min=1)


def find_classes(subject: Subject, image: Image.Image, how: SlidingWindowConfig) -> Tensor:
    """Predict the class of each pixel of an image.

    Args:
        subject: segmentation model in evaluation mode.
        image: the image; it is converted to the channels that the model takes.
        how: settings of sliding windows, scales and flips.

    Returns:
        (H, W) int64, class indices.

    Raises:
        InputError: the logits are not finite.
    """
    channels, size, _ = subject.record.input_size
    prepared = subject.prepared(resized(image, size, channels))[0]
    probabilities = _probabilities(subject, prepared, how).cpu()
    return predicted_classes(probabilities, (image.height, image.width))


def _probabilities(subject: Subject, image: Tensor, how: SlidingWindowConfig) -> Tensor:
    """Compute the probabilities (K, H, W) of a normalized image."""
    forward = partial(sliding_window_inference, subject.model, image, how)
    return finite_output(subject.source, subject.model, forward)


def _shares(mask: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the share of pixels of each class that occurs, the largest first."""
    counts = torch.bincount(mask.flatten(), minlength=len(classes))
    order = counts.argsort(descending=True, stable=True).tolist()
    return [
        {"class": classes[index], "share": int(counts[index]) / mask.numel()}
        for index in order
        if counts[index]
    ]
