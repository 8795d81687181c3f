"""The classes of the tasks by name, which need torch."""

from __future__ import annotations

from importlib import import_module

from kat.training.tasks.registry import TASKS
from kat.training.tasks.task import Task

for _name in TASKS:
    import_module(f"kat.training.tasks.{_name}.task")
TASK_CLASSES = {task.declared.name: task for task in Task.__subclasses__()}
