"""The interface of a task, by which classification, detection and segmentation differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor, nn

from kat.data.dataset import Transform
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.tasks.declared import Declared
from kat.training.tasks.evaluation import EvalJob, Evaluation, Prediction, Subject

Transforms = tuple[Transform, Transform]
"""The transforms of training and of validation images."""


class Metrics(nn.Module):
    """Accumulates the metrics of a validation over the images of all ranks, each counted once."""

    @abstractmethod
    def update(self, predictions: Any, labels: Any) -> Tensor | None:
        """Add the predictions of a batch; return its mean loss if the task has one."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name, and ``loss`` if the task has one; a collective."""

    def notes(self, classes: Sequence[str]) -> list[str]:
        """Return remarks on the validation data, one line each; a collective."""
        return []

    def reset(self) -> None:
        """Reset the metrics to their initial state."""
        metric: Any
        for metric in self.children():
            metric.reset()


class Task(ABC):
    """Training, evaluation and prediction of models on one kind of data.

    Args:
        config: the settings of the run.
        record: record of the model.
    """

    declared: ClassVar[Declared]
    """The declaration of the task, from its folder."""

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        self.config = config
        self.record = record
        self.metrics = self.declared.metrics
        """The metrics of a validation besides the loss, as far as the model has them."""

    @staticmethod
    @abstractmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """Make the transforms of training and of validation images, with their labels."""

    @abstractmethod
    def make_metrics(self) -> Metrics:
        """Create the metrics of a validation."""

    @abstractmethod
    def loss(self, output: Any, labels: Any) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            output: output of the model in training mode, called with :meth:`arguments`.
            labels: labels of the batch.
        """

    @abstractmethod
    def predict(self, model: nn.Module, images: Any) -> Any:
        """Return the predictions for a batch of images, as :meth:`Metrics.update` takes them."""

    def mixed(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """Apply augmentation across the images of a batch, such as mixup."""
        return images, labels

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """Return the arguments of the model in training."""
        return (images,)

    @classmethod
    @abstractmethod
    def evaluate(cls, job: EvalJob) -> Evaluation:
        """Evaluate a model; see :func:`kat.training.evaluation.evaluate.evaluate`."""

    @classmethod
    def draw_beside_truth(cls, subject: Subject, images: Any, index: int) -> tuple[Tensor, Tensor]:
        """Draw an image with its ground truth, and with the predictions of the model.

        Args:
            subject: the model, in evaluation mode.
            images: a dataset for this task; its transform is replaced.
            index: the index of the image.

        Returns:
            Two pictures, (3, H, W) uint8.

        Raises:
            NotImplementedError: the task draws nothing.
            UnreadableImage: the image cannot be read.
        """
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def predict_images(
        cls, subject: Subject, images: Iterable[Image.Image], options: Any, draw: bool = False
    ) -> Iterator[Prediction]:
        """Yield the prediction for each image, in order.

        Args:
            subject: the model, in evaluation mode.
            images: images with the channels that the model takes.
            options: an instance of the declared options.
            draw: also draw pictures.
        """
