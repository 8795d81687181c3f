"""What a task is: the one place where classification, detection and segmentation differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from PIL import Image
from torch import Tensor, nn

from kat.data import DataConfig, ImageDataset, ImageStream
from kat.data.dataset import Transform
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.evaluation.evaluation import EvalConfig, Evaluation, Subject
from kat.training.evaluation.prediction import Prediction

Transforms = tuple[Transform, Transform]
"""Of the images to train on, and of those to validate on."""

ONLY_CLASSIFICATION = (
    "augment",
    "model.drop",
    "data.root",
    "data.train_split",
    "data.val_split",
    "data.download",
    "data.num_classes",
    "data.image_key",
    "data.label_key",
    "data.holdout",
    "data.interpolation",
    "data.crop_pct",
)
"""Settings, and sections of them, that data with boxes or masks has no use for."""


class Metric(NamedTuple):
    """One figure of a validation, the higher the better.

    Args:
        name: in logs, the history and files.
        label: in what people read.
        format: of its value.
        in_table: whether it is printed of each of several checkpoints.
    """

    name: str
    label: str
    format: str = ".2f"
    in_table: bool = True


class Metrics(nn.Module):
    """Accumulates the metrics of a validation over the images of all ranks, each counted once."""

    @abstractmethod
    def update(self, predictions: Any, labels: Any) -> Tensor | None:
        """Counts the predictions of a batch; returns its mean loss where the task has one."""

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """The metrics by name, and ``loss`` where the task has one; a collective."""

    def notes(self, classes: Sequence[str]) -> list[str]:
        """What a user should know of the validation data; a collective."""
        return []

    @abstractmethod
    def reset(self) -> None:
        """Forgets everything."""


class Task(ABC):
    """How models are trained, evaluated and used for prediction on one kind of data.

    Args:
        config: the settings of the run.
        record: of the model.
    """

    name: ClassVar[str]
    """As datasets and models name it."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Of a validation, beside the loss; the first one selects the best checkpoint."""
    example_models: ClassVar[str]
    """Models that can be trained, for messages."""
    unused_settings: ClassVar[tuple[str, ...]]
    """Settings, and sections of them, that are for other tasks."""
    eval_metrics: ClassVar[tuple[Metric, ...]]
    """What an evaluation gives: the columns of a table of checkpoints."""
    EvalOptions: ClassVar[type]
    """A dataclass of what ``evaluate`` takes beyond other tasks."""
    PredictOptions: ClassVar[type]
    """A dataclass of what ``predict_images`` takes beyond other tasks."""
    entries: ClassVar[str]
    """What the entries of a prediction are, e.g. objects."""
    entry_figure: ClassVar[str]
    """The figure of an entry, e.g. score."""
    on_grid: ClassVar[bool] = True
    """Whether models keep the patches of an image as a grid, of any size."""
    draws: ClassVar[bool] = True
    """Whether predictions come with pictures."""

    def __init__(self, config: TrainConfig, record: ModelRecord) -> None:
        self.config = config
        self.record = record
        self.random_erasing = 0.0
        """Probability that an image to train on loses a rectangle."""

    @staticmethod
    @abstractmethod
    def transforms(record: ModelRecord, config: TrainConfig) -> Transforms:
        """What is done to images, and their labels, on the way to a batch."""

    @abstractmethod
    def make_metrics(self) -> Metrics:
        """Fresh metrics of a validation."""

    @abstractmethod
    def loss(self, output: Any, labels: Any) -> Tensor:
        """The mean loss of a batch.

        Args:
            output: of the model in training mode, called with :meth:`arguments`.
            labels: of the batch.
        """

    @abstractmethod
    def predict(self, model: nn.Module, images: Any) -> Any:
        """What :meth:`Metrics.update` takes: the predictions for a batch of images."""

    def check_model(self, model: nn.Module) -> None:  # noqa: B027 (most have nothing to check)
        """Checks that the model can be trained with the settings.

        Raises:
            InputError: it cannot.
        """

    def mixed(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """The images and labels of a batch after augmentation across images."""
        return images, labels

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """What the model is called with in training."""
        return (images,)

    @classmethod
    @abstractmethod
    def evaluate(
        cls,
        subject: Subject,
        images: ImageDataset | ImageStream,
        data: DataConfig,
        config: EvalConfig,
        options: Any,
    ) -> Evaluation:
        """Evaluates a model; see :func:`kat.training.evaluation.evaluate.evaluate`.

        Args:
            subject: the model.
            images: the split, of this task.
            data: how images are loaded.
            config: how the model is run.
            options: an instance of ``EvalOptions``.
        """

    @classmethod
    @abstractmethod
    def predict_images(
        cls, subject: Subject, images: Iterable[Image.Image], options: Any
    ) -> Iterator[Prediction]:
        """The prediction for each image, in order.

        Args:
            subject: the model, in evaluation mode.
            images: in the mode that the model takes.
            options: an instance of ``PredictOptions``.
        """


@dataclass
class NoOptions:
    """A task that takes no options of its own."""
