"""The tasks by name, and checks that model, data and settings fit together."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from kat.data import ImageDataset, ImageStream
from kat.errors import InputError
from kat.models.dense import task_of
from kat.training.config import TrainConfig, setting
from kat.training.tasks.task import Task


def _find_tasks() -> dict[str, type[Task]]:
    """All tasks in this package, by name."""
    package = import_module("kat.training.tasks")
    for module in iter_modules(package.__path__):
        if f"{package.__name__}.{module.name}" != __name__:
            import_module(f"{package.__name__}.{module.name}")
    return {task.name: task for task in sorted(Task.__subclasses__(), key=lambda task: task.name)}


TASKS = _find_tasks()


def check_used(config: TrainConfig, task: str) -> None:
    """Checks that settings that a task does not use have their defaults.

    Raises:
        InputError: one differs from its default.
    """
    default = TrainConfig()
    for name in TASKS[task].unused_settings:
        given, unchanged = _values(setting(config, name)), _values(setting(default, name))
        for key, value in given.items():
            if value != unchanged[key]:
                raise InputError(
                    f"{name}{key}={value} has no effect on {task}: leave it out, or take"
                    f" a recipe for {task}"
                )


def _values(value: Any) -> dict[str, Any]:
    """The settings of a section by ``.name``, or the value of a single setting by ``""``."""
    if not dataclasses.is_dataclass(value):
        return {"": value}
    fields = vars(value).items()
    return {f".{name}": list(v) if isinstance(v, tuple) else v for name, v in fields}


def check_task(model: nn.Module, data: ImageDataset | ImageStream, names: tuple[str, str]) -> None:
    """Checks that a model is for the task of the data.

    Args:
        model: the model to train or evaluate.
        data: the dataset.
        names: names of the model and the data, for the error message.

    Raises:
        InputError: the model is for another task.
    """
    if task_of(model) != data.task:
        raise InputError(
            f"{names[1]} is data for {data.task}, but {names[0]} is for {task_of(model)}; models"
            f" for {data.task} are {TASKS[data.task].example_models}"
        )
