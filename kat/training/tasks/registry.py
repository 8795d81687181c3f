"""What differs between the tasks: the transforms of their images, and the module that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from kat.data import ImageSet, ImageStream, eval_transform, train_transform
from kat.data.dataset import Transform
from kat.data.dense import (
    DetectionEvaluation,
    DetectionTraining,
    SegmentationEvaluation,
    SegmentationTraining,
)
from kat.errors import InputError
from kat.models import ModelRecord
from kat.models.dense import task_of
from kat.training.config import TrainConfig, setting
from kat.training.module import TaskModule
from kat.training.tasks.classification import Classifier
from kat.training.tasks.detection import DetectionModule
from kat.training.tasks.segmentation import SegmentationModule

Transforms = tuple[Transform, Transform]
"""Of the images to train on, and of those to validate on."""


class Task(NamedTuple):
    """A kind of data, and how models are trained on it.

    Args:
        module: trains and validates.
        transforms: by the model's record and the settings.
        models: examples of what can be trained.
        unused: the settings, and sections of them, that are for other tasks.
    """

    module: type[TaskModule]
    transforms: Callable[[ModelRecord, TrainConfig], Transforms]
    models: str
    unused: tuple[str, ...]


def _of_classification(record: ModelRecord, config: TrainConfig) -> Transforms:
    return train_transform(record, config.augment), eval_transform(record, normalize=False)


def _of_detection(record: ModelRecord, config: TrainConfig) -> Transforms:
    channels, size, _ = record.input_size
    training = DetectionTraining(size, config.detection, record.mean)
    return training, DetectionEvaluation(channels)


def _of_segmentation(record: ModelRecord, config: TrainConfig) -> Transforms:
    channels, size, _ = record.input_size
    training = SegmentationTraining(size, config.segmentation, record.mean)
    return training, SegmentationEvaluation(size, channels)


_OF_CLASSIFIERS = (
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

TASKS = {
    "classification": Task(
        Classifier,
        _of_classification,
        "kat_tiny_patch16_224, kat_micro",
        ("detection", "segmentation", "data.bad_annotations"),
    ),
    "detection": Task(
        DetectionModule,
        _of_detection,
        "kat_det_tiny, kat_det_micro",
        ("segmentation", *_OF_CLASSIFIERS),
    ),
    "segmentation": Task(
        SegmentationModule,
        _of_segmentation,
        "kat_upernet_tiny, ..._micro",
        ("detection", *_OF_CLASSIFIERS),
    ),
}


def check_used(config: TrainConfig, task: str) -> None:
    """Checks that no setting is given that a task has no use for.

    Raises:
        InputError: one is not as it is by default.
    """
    default = TrainConfig()
    for name in TASKS[task].unused:
        given, unchanged = _values(setting(config, name)), _values(setting(default, name))
        for key, value in given.items():
            if value != unchanged[key]:
                raise InputError(f"{name}{key}={value} has no effect on {task}: leave it out")


def _values(value: Any) -> dict[str, Any]:
    """The settings of a section, or the value of a setting, by what comes after its name."""
    if not dataclasses.is_dataclass(value):
        return {"": value}
    fields = vars(value).items()
    return {f".{name}": list(v) if isinstance(v, tuple) else v for name, v in fields}


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
