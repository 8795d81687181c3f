"""The tasks by name, without torch: one for each folder of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules
from typing import Any

from kat.errors import InputError, unknown
from kat.settings import settings_from
from kat.training.tasks.declared import Declared, Which

_PACKAGE = "kat.training.tasks"


def _find_tasks() -> dict[str, Declared]:
    """Import the declaration of each folder of this package."""
    tasks = {}
    for module in iter_modules(import_module(_PACKAGE).__path__):
        if module.ispkg:
            tasks[module.name] = import_module(f"{_PACKAGE}.{module.name}.declared").DECLARED
    return tasks


TASKS = _find_tasks()


def option_names(task: str, which: Which) -> list[str]:
    """Return the names of a task's options for one of its methods."""
    return [field.name for field in fields(TASKS[task].options[which])]


def foreign_options(task: str, which: Which) -> set[str]:
    """Return the names of the options that other tasks have, and this one has not."""
    known = chain.from_iterable(option_names(other, which) for other in TASKS)
    return set(known).difference(option_names(task, which))


def task_options(task: str, which: Which, given: Mapping[str, Any]) -> Any:
    """Return an instance of a task's options.

    Args:
        task: the name of the task.
        which: the method of the task that takes them.
        given: values by name; the others have their defaults.

    Raises:
        InputError: an unknown option, an option of another task, or a value out of range.
    """
    names, foreign = option_names(task, which), foreign_options(task, which)
    for name in given.keys() - names:
        if name not in foreign:
            raise unknown("option", name, names)
        raise InputError(f"{name} has no effect on a model for {task}: leave it out")
    return settings_from(TASKS[task].options[which], given)
