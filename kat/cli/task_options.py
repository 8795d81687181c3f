"""Options that only one task has: added for all, refused for the others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Literal

from kat.cli.parsing import Parser
from kat.errors import InputError
from kat.training.tasks.registry import TASKS

Which = Literal["EvalOptions", "PredictOptions"]


def add_task_options(parser: Parser, which: Which, common: Collection[str] = ()) -> None:
    """Adds the options of every task.

    Args:
        parser: of a command.
        which: the options of :class:`kat.training.tasks.task.Task`.
        common: those that the command adds itself.
    """
    for task in TASKS.values():
        options = getattr(task, which)
        if set(_names(options)) - set(common):
            parser.add_class_arguments(options, skip=set(common) & set(_names(options)))


def task_options(
    parser: Parser, parsed: Namespace, task: str, which: Which, common: Collection[str] = ()
) -> Any:
    """The options of a task, from what was parsed.

    Raises:
        InputError: an option of another task is given.
    """
    own = _names(getattr(TASKS[task], which))
    others = [name for other in TASKS.values() for name in _names(getattr(other, which))]
    for name in others:
        if name not in (*own, *common) and parsed[name] != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} has no effect on a model for {task}: leave it out")
    return getattr(TASKS[task], which)(**{name: parsed[name] for name in own})


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]
