"""Options that only one task has: added for all, refused for the others."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import Any

from kat.cli.options.parser import Parser, refuse_options
from kat.training.tasks.declared import Which
from kat.training.tasks.registry import TASKS, foreign_options, option_names


def add_task_options(parser: Parser, which: Which) -> None:
    """Add the options of every task for one of its methods."""
    for task in TASKS.values():
        if fields(task.options[which]):
            parser.add_settings(task.options[which])


def own_options(parser: Parser, parsed: Namespace, task: str, which: Which) -> dict[str, Any]:
    """Return the options of a task, from what was parsed.

    Raises:
        InputError: an option of another task is given.
    """
    foreign = sorted(foreign_options(task, which))
    refuse_options(parser, parsed, foreign, f"on a model for {task}")
    return {name: getattr(parsed, name) for name in option_names(task, which)}
