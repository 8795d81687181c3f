"""``kat data``: looks at data sets, and makes one, one module a task."""

from __future__ import annotations

import importlib
import sys

from kat.cli.parsing import run_command
from kat.errors import unknown
from kat.tables import aligned

TASKS = {
    "check": "every image and annotation of a data set, before anything is trained on it",
    "make": "a small data set for detection and segmentation, of real images",
}


def usage() -> str:
    """The text of ``kat data --help``."""
    rows = aligned(TASKS.items(), indent="  ")
    return f"""usage: kat data TASK [OPTIONS]

tasks:
{rows}

examples:
  kat data check coco:/data/coco
  kat data make items --out items

'kat data TASK --help' lists the options of a task."""


def main(arguments: list[str]) -> int:
    """Does one task."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    if name not in TASKS:
        raise unknown("task of kat data", name, list(TASKS))
    task = importlib.import_module(f"kat.cli.data.{name}")
    result: int = task.main(arguments[1:])
    return result
