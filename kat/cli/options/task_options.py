"""Options that only one task has: added for all, refused for the others."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Literal

from kat.cli.options.parser import Parser, refuse_options
from kat.settings import check_ranges
from kat.training.tasks.registry import TASKS

Which = Literal["EvalOptions", "PredictOptions"]


def add_task_options(parser: Parser, which: Which, common: Collection[str] = ()) -> None:
    """Adds the options of every task.

    Args:
        parser: the parser of a command.
        which: the options of :class:`kat.training.tasks.task.Task`.
        common: those that the command adds itself.
    """
    for task in TASKS.values():
        options = getattr(task, which)
        if set(_names(options)) - set(common):
            parser.add_settings(options, skip=set(common) & set(_names(options)))


def task_options(
    parser: Parser, parsed: Namespace, task: str, which: Which, common: Collection[str] = ()
) -> Any:
    """The options of a task, from what was parsed.

    Raises:
        InputError: an option of another task is given, or a value is out of range.
    """
    settings = getattr(TASKS[task], which)
    own = _names(settings)
    names = [name for other in TASKS.values() for name in _names(getattr(other, which))]
    others = [name for name in names if name not in (*own, *common)]
    refuse_options(parser, parsed, others, f"on a model for {task}")
    return check_ranges(settings(**{name: getattr(parsed, name) for name in own}))


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]
