"""Options that only one task has: added for all, refused for the others."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import Any

from kat.cli.options.parser import Parser, refuse_options
from kat.training.tasks.declared import OPTIONS, Which


def add_task_options(parser: Parser, which: Which) -> None:
    """Add the options of every task for a method: an entry of ``OPTIONS[task]``."""
    for own in OPTIONS.values():
        if fields(own[which]):
            parser.add_settings(own[which])


def own_options(parser: Parser, parsed: Namespace, task: str, which: Which) -> dict[str, Any]:
    """Return the options of a task, from what was parsed.

    Raises:
        InputError: an option of another task is given.
    """
    own = _names(OPTIONS[task][which])
    for other in OPTIONS.values():
        foreign = [name for name in _names(other[which]) if name not in own]
        refuse_options(parser, parsed, foreign, f"on a model for {task}")
    return {name: getattr(parsed, name) for name in own}


def _names(options: type) -> list[str]:
    return [field.name for field in fields(options)]
