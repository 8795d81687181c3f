"""Options that only one task has: added for all tasks, refused for the others."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Collection
from dataclasses import fields
from typing import Any, Literal, get_type_hints

from kat.cli.parsing import Parser, refuse_options
from kat.training.tasks.registry import TASKS

Which = Literal["EvalOptions", "PredictOptions"]


def add_task_options(parser: Parser, which: Which, common: Collection[str] = ()) -> None:
    """Adds the options of every task, with the help that their docstrings give.

    Args:
        parser: of a command.
        which: the options of :class:`kat.training.tasks.task.Task`.
        common: those that the command adds itself.
    """
    for task in TASKS.values():
        options = getattr(task, which)
        types, help_of = get_type_hints(options, include_extras=True), _help(options)
        for field in fields(options):
            if field.name not in common:
                parser.add(
                    f"--{field.name.replace('_', '-')}",
                    type=types[field.name],
                    default=field.default,
                    help=f"{help_of[field.name]} ({task.name})",
                )


def task_options(
    parser: Parser, parsed: Namespace, task: str, which: Which, common: Collection[str] = ()
) -> Any:
    """The options of a task, from what was parsed.

    Raises:
        InputError: an option of another task is given.
    """
    own = _names(getattr(TASKS[task], which))
    others = [name for other in TASKS.values() for name in _names(getattr(other, which))]
    foreign = [name for name in others if name not in (*own, *common)]
    refuse_options(parser, parsed, foreign, f"on a model for {task}")
    return getattr(TASKS[task], which)(**{name: getattr(parsed, name) for name in own})


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]


def _help(options: type) -> dict[str, str]:
    """What a docstring says of each argument, without the final period."""
    _, _, arguments = (options.__doc__ or "").partition("Args:\n")
    entries = re.split(r"\n {8}(?=\w+: )", f"\n{arguments.rstrip()}")[1:]
    pairs = (entry.split(": ", 1) for entry in entries)
    return {name: " ".join(text.replace("``", "'").split()).rstrip(".") for name, text in pairs}
