"""The tasks by name, and checks that model, data and settings fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import nn

from kat.data import ImageDataset, ImageStream
from kat.errors import InputError, unknown
from kat.models.dense import task_of
from kat.settings import flat, settings_from
from kat.training.config import TrainConfig, own_recipe
from kat.training.tasks.declared import OPTIONS, Which
from kat.training.tasks.task import Task


def _find_tasks() -> dict[str, type[Task]]:
    """Import the task of each folder of this package."""
    package = import_module("kat.training.tasks")
    for module in iter_modules(package.__path__):
        if module.ispkg:
            import_module(f"{package.__name__}.{module.name}.task")
    return {task.name: task for task in sorted(Task.__subclasses__(), key=lambda task: task.name)}


TASKS = _find_tasks()


def task_options(task: str, which: Which, given: Mapping[str, Any]) -> Any:
    """Return an instance of a task's options.

    Args:
        task: the name of the task.
        which: the method of the task that takes them.
        given: values by name; the others have their defaults.

    Raises:
        InputError: an unknown option, an option of another task, or a value out of range.
    """
    own, *others = (OPTIONS[name][which] for name in (task, *TASKS))
    known = {field.name for settings in others for field in fields(settings)}
    names = {field.name for field in fields(own)}
    for name in given.keys() - names:
        if name not in known:
            raise unknown("option", name, names)
        raise InputError(f"{name} has no effect on a model for {task}: leave it out")
    return settings_from(own, given)


def check_used(config: TrainConfig, task: str) -> None:
    """Check that settings that a task does not use have their defaults.

    Raises:
        InputError: one differs from its default.
    """
    default = flat(asdict(TrainConfig()))
    unused = tuple(f"{name}." for name in TASKS[task].unused_settings)
    for name, value in flat(asdict(config)).items():
        if f"{name}.".startswith(unused) and value != default[name]:
            raise InputError(
                f"{name}={value} has no effect on {task}: leave it out, or take a recipe for {task}"
                f" such as {own_recipe(task)}"
            )


def check_task(model: nn.Module, data: ImageDataset | ImageStream, names: tuple[str, str]) -> None:
    """Check that a model is for the task of the data.

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
