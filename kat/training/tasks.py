"""What differs between the tasks: the transforms of their images, and the module that trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from kat.data import ImageSet, ImageStream, eval_transform, train_transform
from kat.data.dense import (
    DetectionEvaluation,
    DetectionTraining,
    SegmentationEvaluation,
    SegmentationTraining,
)
from kat.data.image_set import Transform
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.classification import Classifier
from kat.training.config import TrainConfig
from kat.training.detection import DetectionModule
from kat.training.module import TaskModule
from kat.training.segmentation import SegmentationModule

Transforms = tuple[Transform, Transform]
"""Of the images to train on, and of those to validate on."""


class Task(NamedTuple):
    """A kind of data, and how models are trained on it.

    Args:
        module: trains and validates.
        transforms: by the model's record and the settings.
        models: examples of what can be trained.
    """

    module: type[TaskModule]
    transforms: Callable[[ModelRecord, TrainConfig], Transforms]
    models: str


def _of_classification(record: ModelRecord, config: TrainConfig) -> Transforms:
    return train_transform(record, config.augment), eval_transform(record, normalize=False)


def _of_detection(record: ModelRecord, config: TrainConfig) -> Transforms:
    size = _side(record)
    return DetectionTraining(size, config.detection, record.mean), DetectionEvaluation()


def _of_segmentation(record: ModelRecord, config: TrainConfig) -> Transforms:
    size = _side(record)
    training = SegmentationTraining(size, config.segmentation, record.mean)
    return training, SegmentationEvaluation(size)


def _side(record: ModelRecord) -> int:
    return record.input_size[1]


TASKS = {
    "classification": Task(Classifier, _of_classification, "kat_tiny_patch16_224, kat_micro"),
    "detection": Task(DetectionModule, _of_detection, "kat_det_tiny, kat_det_micro"),
    "segmentation": Task(SegmentationModule, _of_segmentation, "kat_upernet_tiny, ..._micro"),
}


def task_of(model: nn.Module) -> str:
    """What a model is for; a classifier says nothing."""
    return str(getattr(model, "task", "classification"))


def check_task(model: nn.Module, data: ImageSet | ImageStream, names: tuple[str, str]) -> None:
    """Checks that a model is for the task of the data.

    Args:
        model: is to be trained or evaluated.
        data: what on.
        names: what to call the two.

    Raises:
        InputError: it is for another one.
    """
    if task_of(model) != data.task:
        raise InputError(
            f"{names[1]} is data for {data.task}, but {names[0]} is for {task_of(model)}; models"
            f" for {data.task} are {TASKS[data.task].models}"
        )
