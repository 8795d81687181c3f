"""The classes of the tasks by name, which need torch."""

from __future__ import annotations

from importlib import import_module

from kat.training.tasks.registry import TASKS
from kat.training.tasks.task import Task


def _import_classes() -> dict[str, type[Task]]:
    """Import the class of each task from its folder."""
    for name in TASKS:
        import_module(f"kat.training.tasks.{name}.task")
    return {task.declared.name: task for task in Task.__subclasses__()}


TASK_CLASSES = _import_classes()
